"""DeepSpeed on one and on two ranks, in processes of their own, without Ray."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.toy.asking import REASONING
from steper_ray.training.rank import RankTraining
from steper_ray.training.settings import LoraConfig, MixConfig, TrainConfig
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.worker import prepare_process
from steper_ray.training.worker_spec import WorkerTask
from tests.training.one_rank import keep_4_bits_as_stored, prepared

if TYPE_CHECKING:
    import torch

pytestmark = [pytest.mark.engine, pytest.mark.without_ray]

STEPS, SAVED = 20, 10


@dataclass(frozen=True)
class Trace:
    """A training as one rank saw it."""

    losses: list[float]
    mix_losses: list[float | None]
    ability_losses: list[tuple[float | None, ...]]
    sigmas: list[tuple[float, ...]]
    gradients: list[torch.Tensor]
    """Of each step, whole and before clipping; on rank 0 only."""
    held: dict[str, int]
    """Numbers that this rank holds between steps."""
    head_whole: list[bool]
    """Whether it held all of the head: after each micro-batch of the last step, then after that step."""
    parameters: int


def whole_gradient(training: RankTraining) -> torch.Tensor:
    import torch
    from deepspeed.utils import safe_get_full_grad

    trained = [p for p in training.engine.module.parameters() if p.requires_grad]
    return torch.cat([safe_get_full_grad(p).flatten().clone() for p in trained])


def held_between_steps(training: RankTraining) -> dict[str, int]:
    optimizer = training.engine.optimizer
    moments = optimizer.optimizer.state.values()
    return {
        "parameters": sum(p.ds_tensor.numel() for p in training.engine.module.parameters()),
        "whole": sum(p.numel() for p in training.engine.module.parameters()),
        "masters": sum(flat.numel() for flat in optimizer.fp32_partitioned_groups_flat),
        "gradients": optimizer.grad_partitions_flat_buffer.numel(),
        "moments": sum(state["exp_avg"].numel() + state["exp_avg_sq"].numel() for state in moments),
    }


def train_on_rank(
    rank: int,
    ranks: int,
    port: int,
    results: Any,
    task: WorkerTask,
    resume: Path | None,
    save: Path | None,
    saved: int,
) -> None:
    import torch

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    prepare_process(task)
    if task.train.lora is not None and task.train.lora.quantize:
        keep_4_bits_as_stored()
    torch.distributed.init_process_group("gloo")
    training = RankTraining(task, rank, ranks, torch.device("cpu"), resume)
    gradients = []
    step = training.engine.step

    def watched_step() -> None:
        gradient = whole_gradient(training)
        if rank == 0:
            gradients.append(gradient)
        step()

    head, head_whole = training.engine.module.loss_head.weight, []
    backward = training.engine.backward

    def watched_backward(loss: torch.Tensor) -> None:
        backward(loss)
        head_whole.append(head.numel() > 0)

    training.engine.step, training.engine.backward = watched_step, watched_backward
    done = []
    while training.step < STEPS:
        head_whole.clear()
        done.append(training.train_step())
        if save is not None and training.step == saved:
            training.save(save)
    trace = Trace(
        losses=[m.loss for m in done],
        mix_losses=[m.mix_loss for m in done],
        ability_losses=[tuple(m.L.values()) for m in done],
        sigmas=[tuple(m.sigma.values()) for m in done],
        gradients=gradients,
        head_whole=[*head_whole, head.numel() > 0],
        held=held_between_steps(training) if task.train.zero_stage == 3 else {},
        parameters=sum(
            getattr(p, "ds_numel", p.numel()) for p in training.engine.module.parameters()
        ),
    )
    file = Path(results) / f"{rank}.pt"
    torch.save(trace, file)
    torch.distributed.destroy_process_group()


@pytest.fixture
def train(tmp_path) -> Callable[..., list[Trace]]:
    """Trains on so many ranks; what each of them saw."""
    import torch

    def work(
        task: WorkerTask,
        ranks: int,
        resume: Path | None = None,
        save: Path | None = None,
        saved: int = SAVED,
    ):
        folder = tmp_path / f"results-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["tests.training.rank_imports"])
        processes = [
            context.Process(
                target=train_on_rank, args=(rank, ranks, port, folder, task, resume, save, saved)
            )
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(600)
        assert [process.exitcode for process in processes] == [0] * ranks
        return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(ranks)]

    return work


@pytest.fixture
def task(tmp_path, write_stepwise, tiny_student) -> WorkerTask:
    write_stepwise(tmp_path, [3, 2, 4, 1, 3, 2, 4, 3])
    texts = [f"The director of Film {number} was born in a town." for number in range(5)]
    mix = tmp_path / "mix.jsonl"
    mix.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return WorkerTask(
        train=TrainConfig(
            model=str(tiny_student),
            lr=1e-4,
            sigma_lr=0.05,
            warmup_ratio=0.1,
            epochs=10,
            chains_per_batch=4,
            micro_batch_tokens=250,
            gradient_checkpointing=False,
            mix=MixConfig(data=str(mix), ratio=0.3),
            deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 0}},
        ),
        stepwise_files=tuple(map(str, stepwise_files(tmp_path / "stepwise"))),
        training_dir=str(tmp_path / "training"),
        seed=0,
        reasoning=complete_reasoning(ReasoningConfig(**REASONING, max_prompt_tokens=1000)),
        corpus_version="v1",
    )


def changed(task: WorkerTask, **values: Any) -> WorkerTask:
    return prepared(replace(task, train=task.train.model_copy(update=values)))


def relative(found: Any, expected: Any) -> float:
    import torch

    found, expected = torch.as_tensor(found).double(), torch.as_tensor(expected).double()
    return float((found - expected).norm() / expected.norm())


def worst(found: Trace, expected: Trace, first: int = 0) -> float:
    pairs = [
        (getattr(found, what), getattr(expected, what)[first:])
        for what in ("losses", "mix_losses", "ability_losses", "sigmas", "gradients")
    ]
    return max(relative(f, e) for fs, es in pairs for f, e in zip(fs, es, strict=True))


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_one_and_two_ranks_train_alike_and_go_on_from_each_others_checkpoints_at_other_stages(
    tmp_path, task, train, zero_stage
):
    task = changed(task, zero_stage=zero_stage)
    one, two = tmp_path / "one", tmp_path / "two"
    (alone,) = train(task, 1, save=one)
    first, second = train(task, 2, save=two)
    assert len(alone.losses) == STEPS
    assert worst(first, alone) <= 1e-5
    assert second.losses == first.losses
    assert second.sigmas == first.sigmas

    other, ranks, checkpoint, expected = (
        (1, 1, two, first) if zero_stage == 3 else (3, 2, one, alone)
    )
    resumed, *_ = train(changed(task, zero_stage=other), ranks, resume=checkpoint)
    assert worst(resumed, expected, SAVED) <= 1e-5
    if zero_stage == 3:
        grown, _ = train(task, 2, resume=one)
        assert worst(grown, alone, SAVED) <= 1e-5
        for rank in (first, second):
            assert rank.head_whole == [True] * (len(rank.head_whole) - 1) + [False]
            assert len(rank.head_whole) > 2, "several micro-batches a step"
            # A matrix of odd size leaves one number more on each rank.
            most = alone.parameters / 2 + 100
            assert rank.held["whole"] == 0 or rank.held["whole"] <= 100
            for what in ("parameters", "masters", "gradients"):
                assert alone.parameters / 2 <= rank.held[what] <= most, what
            assert alone.parameters <= rank.held["moments"] <= 2 * most


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_adapters_go_on_with_another_number_of_ranks(tmp_path, task, train, zero_stage):
    """From one to two and back; no checkpoint has a frozen weight, nor an optimizer its moments."""
    task = changed(task, zero_stage=zero_stage, lora=LoraConfig(rank=2), lr=1e-3)
    one, two = tmp_path / "one", tmp_path / "two"
    (alone,) = train(task, 1, save=one)
    grown, _ = train(task, 2, resume=one, save=two, saved=15)
    (shrunk,) = train(task, 1, resume=two)
    assert worst(grown, alone, SAVED) <= 1e-5
    assert worst(shrunk, alone, 15) <= 1e-5
    trained = len(alone.gradients[0])
    assert alone.losses[-1] < alone.losses[0]
    if zero_stage == 3:
        for trace, ranks in ((alone, 1), (grown, 2)):
            assert trained <= trace.held["masters"] * ranks <= trained + 100
            assert trace.held["moments"] == 2 * trace.held["masters"]
    for folder, files in ((one, 1), (two, 2)):
        shards = list((folder / "zero").glob("*optim_states.pt"))
        assert len(shards) == files
        # fp32: the trained weights and their moments
        assert sum(shard.stat().st_size for shard in shards) < 12 * trained + files * 60_000
        weights = list((folder / "zero").glob("*model_states.pt"))
        assert sum(file.stat().st_size for file in weights) < 4 * trained + files * 60_000
    assert 4 * alone.parameters > 2 * (16 * trained + 4 * 60_000)


def test_4_bit_matrices_train_on_two_ranks_as_on_one(task, train):
    lora = LoraConfig(rank=2, quantize="4bit")
    task = changed(task, zero_stage=2, lora=lora, lr=1e-3)
    (alone,) = train(task, 1)
    first, _ = train(task, 2)
    assert alone.losses[-1] < alone.losses[0]
    assert worst(first, alone) <= 1e-5
