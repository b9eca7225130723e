"""DeepSpeed in this process, as the only rank; several ranks are tested in test_trainer.py."""

import json
import os
import random
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steper_ray.errors import StageError
from steper_ray.reasoning.frameworks.ircot import render_prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import StepExample
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.metrics import StepMetrics
from steper_ray.training.rank import RankTraining
from steper_ray.training.settings import LoraConfig, TrainConfig
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.worker import prepare_process
from steper_ray.training.worker_spec import WorkerTask

pytestmark = pytest.mark.engine

LR, SIGMA_LR = 2e-3, 0.1


@pytest.fixture(scope="module")
def only_rank(device):
    """torch.distributed with a single rank, as Ray Train would have set it up."""
    import torch

    gpu = device.type == "cuda"
    with pytest.MonkeyPatch.context() as patch:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        values = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        values |= {"PATH": os.environ["PATH"]} | ({} if gpu else {"DS_ACCELERATOR": "cpu"})
        for name, value in values.items():
            patch.setenv(name, value)
        # Liger puts its layers into transformers' modules, and so into what we compare with.
        patch.setitem(sys.modules, "liger_kernel", None)
        torch.distributed.init_process_group("nccl" if gpu else "gloo")
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture
def task(tmp_path, write_stepwise, tiny_student, device) -> WorkerTask:
    write_stepwise(tmp_path, [3, 2, 4])
    task = WorkerTask(
        train=TrainConfig(
            model=str(tiny_student),
            sigma_lr=SIGMA_LR,
            lr=LR,
            warmup_ratio=0.01,
            epochs=3,
            chains_per_batch=3,
            micro_batch_tokens=600,
            gradient_checkpointing=False,
            use_gpu=device.type == "cuda",
            precision="fp32",
        ),
        stepwise_files=tuple(map(str, stepwise_files(tmp_path / "stepwise"))),
        training_dir=str(tmp_path / "training"),
        seed=0,
        reasoning=ReasoningConfig(max_prompt_tokens=1000),
        corpus_version="v1",
        log=str(tmp_path / "train.log"),
    )
    prepare_process(task)
    return task


def start(task: WorkerTask, resume: Path | None = None, **values: Any) -> RankTraining:
    """The only rank of a training whose settings differ in `values`."""
    import torch

    task = replace(task, train=task.train.model_copy(update=values))
    device = torch.device("cuda:0" if task.train.use_gpu else "cpu")
    return RankTraining(task, 0, 1, device, resume)


def learned(metrics: StepMetrics) -> dict[str, Any]:
    """What does not depend on the machine."""
    measured = {"seconds", "tokens_per_second", "examples_per_second", "peak_memory_gib", "mfu"}
    return {name: value for name, value in metrics.as_row().items() if name not in measured}


def gather_and_save(training: RankTraining, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from steper_ray.training.student import gather_weights

    model = AutoModelForCausalLM.from_pretrained(training.task.train.model)
    model.load_state_dict(gather_weights(training.engine.module.model, keep=True), strict=False)
    model.save_pretrained(folder)


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize(
    ("zero_stage", "packing"), [(0, True), (1, True), (2, True), (3, True), (3, False)]
)
def test_every_zero_stage_trains_as_plain_torch_does(
    tmp_path, write_stepwise, task, plain_training, zero_stage, packing
):
    examples = write_stepwise(tmp_path, [3, 2, 4])
    steps, _ = plain_training(task.train.model, examples, 3, lr=LR, sigma_lr=SIGMA_LR)
    training = start(task, zero_stage=zero_stage, packing=packing)
    for expected in steps:
        done = training.train_step()
        assert done.loss == pytest.approx(expected.loss, rel=1e-5)
        assert list(done.L.values()) == pytest.approx(expected.loss_A, rel=1e-5)
        assert done.grad_norm == pytest.approx(expected.gradient_norm, rel=1e-4)
        sigma_A = list(done.sigma.values())
        assert sigma_A == pytest.approx(expected.sigma_A, rel=1e-5)


@pytest.mark.usefixtures("only_rank")
def test_offload_trains_as_plain_torch_does(tmp_path, write_stepwise, task, plain_training):
    """With DeepSpeed's CPU Adam, which is compiled when it is first used on a machine."""
    examples = write_stepwise(tmp_path, [3, 2, 4])
    steps, _ = plain_training(task.train.model, examples, 3, lr=LR, sigma_lr=SIGMA_LR)
    training = start(task, offload_optimizer="cpu", offload_weights="cpu")
    adam = training.engine.optimizer.optimizer
    assert type(adam).__name__ == "DeepSpeedCPUAdam"
    for expected in steps:
        done = training.train_step()
        assert done.loss == pytest.approx(expected.loss, rel=1e-5)
        assert done.grad_norm == pytest.approx(expected.gradient_norm, rel=1e-4)


@pytest.mark.usefixtures("only_rank")
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path, task):
    training = start(task, chains_per_batch=2, epochs=2)
    training.train_step()
    training.save(tmp_path / "checkpoint")
    without_break = [training.train_step() for _ in range(3)]
    again = start(task, tmp_path / "checkpoint", chains_per_batch=2, epochs=2)
    for expected in without_break:
        done = again.train_step()
        assert learned(done) == learned(expected)


@pytest.mark.usefixtures("only_rank")
def test_uniform_leaves_sigma_alone(task):
    done = start(task, objective="uniform").train_step()
    assert done.loss == pytest.approx(np.mean(list(done.L.values())))
    assert list(done.sigma.values()) == pytest.approx([1.0, 1.0, 1.0])


@pytest.mark.usefixtures("only_rank")
def test_accuracy_is_the_share_of_target_tokens_that_were_the_likeliest(
    tmp_path, task, write_stepwise
):
    import torch
    from transformers import AutoModelForCausalLM

    written = write_stepwise(tmp_path, [3, 2, 4])
    first = start(task, epochs=60)
    for _ in range(3):  # until some tokens are right and some are not
        first.train_step()
    gather_and_save(first, tmp_path / "trained")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    tokenizer = make_tokenizer()
    shares: dict[str, list[float]] = {}
    for example in written:
        prompt = tokenizer(example.prompt)["input_ids"]
        target = tokenizer(example.target)["input_ids"]
        with torch.no_grad():
            likeliest = model(torch.tensor([prompt + target])).logits[0].argmax(-1)
        right = likeliest[len(prompt) - 1 : -1] == torch.tensor(target)
        shares.setdefault(example.ability, []).append(right.float().mean().item())
    done = first.train_step()
    expected = [sum(shares[ability]) / len(shares[ability]) for ability in ("init", "exp", "agg")]
    assert all(0 < share < 1 for share in expected)
    found = list(done.accuracy.values())
    assert found == pytest.approx(expected, abs=0.03)  # a tie may fall either way


@pytest.mark.usefixtures("only_rank")
def test_vanilla_kd_is_the_mean_over_whole_paths(tmp_path, task, write_stepwise):
    import torch
    from transformers import AutoModelForCausalLM

    written = write_stepwise(tmp_path, [3, 2, 4])
    model = AutoModelForCausalLM.from_pretrained(task.train.model)
    tokenizer = make_tokenizer()
    losses = []
    for last, steps in ((written[2], 3), (written[4], 2), (written[8], 4)):
        lines = [*last.reasoning, last.target.strip()]
        assert len(lines) == steps
        path = f" {lines[0]}\n" + "".join(f"Step {s}: {r}\n" for s, r in enumerate(lines[1:], 2))
        prompt = tokenizer(render_prompt(last.question, last.passages))["input_ids"]
        target = tokenizer(path)["input_ids"]
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target)))
    expected = torch.stack(losses).mean()
    expected.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    squares = sum(float(gradient.double().square().sum()) for gradient in gradients)
    done = start(task, objective="vanilla-kd").train_step()
    assert done.loss == pytest.approx(expected.item(), rel=1e-5)
    assert done.grad_norm == pytest.approx(squares**0.5, rel=1e-3)
    assert done.L == {"init": None, "exp": None, "agg": None}
    assert done.examples == 3
    assert done.sigma["agg"] == 1.0


@pytest.mark.usefixtures("only_rank")
def test_an_absent_stage_is_null_and_its_sigma_stays(tmp_path, task, write_stepwise):
    write_stepwise(tmp_path, [2, 2])
    done = start(task, abilities=("init", "agg")).train_step()
    assert done.L["exp"] is None
    assert done.sigma["exp"] == 1.0
    assert done.sigma["init"] != 1.0


@pytest.mark.usefixtures("only_rank")
def test_a_loss_that_is_no_number_ends_the_run_and_names_its_examples(tmp_path, task):
    import torch

    training = start(task, zero_stage=1)
    with torch.no_grad():
        next(training.engine.module.parameters()).fill_(float("nan"))
    with pytest.raises(StageError, match=r"loss of step 1 is nan.*bad_batch\.json"):
        training.train_step()
    bad = json.loads((tmp_path / "training" / "bad_batch.json").read_text())
    assert bad["step"] == 1
    assert len(bad["examples"]) == 9
    assert {"c0000/1", "c0002/4"} <= set(bad["examples"])


def stages_of(examples: list[StepExample], chains: set[str]) -> list[StepExample]:
    return [example for example in examples if example.chain_id in chains]


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("packing", [True, False])
def test_validation_is_the_plain_loss_of_chains_that_are_not_trained_on(
    tmp_path, task, write_stepwise, reference, packing
):
    import torch
    from transformers import AutoModelForCausalLM

    written = write_stepwise(tmp_path, [3, 2, 4, 3, 3, 2])
    training = start(
        task, validation_chains=2, chains_per_batch=2, packing=packing, validate_every_steps=1
    )
    held_out = {training.data.examples[chain[0]].chain_id for chain in training.held_out}
    trained = {training.data.examples[chain[0]].chain_id for chain in training.chains}
    assert len(held_out) == 2
    assert held_out | trained == {example.chain_id for example in written}
    assert not held_out & trained

    training.train_step()
    gather_and_save(training, tmp_path / "trained")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    plain = reference(model, stages_of(written, held_out), [1.0, 1.0, 1.0])
    assert training.validation_due
    done = training.validate()
    found = list(done.validation.values())
    assert found == pytest.approx(plain.loss_A, rel=1e-5)
    assert done.validation_loss == pytest.approx(sum(plain.loss_A) / 3, rel=1e-5)
    # Nothing was learned from them.
    gather_and_save(training, tmp_path / "after")
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("trained", "after")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.usefixtures("only_rank")
def test_the_best_student_is_kept_and_patience_ends_the_training(tmp_path, task, write_stepwise):
    import torch
    from transformers import AutoModelForCausalLM

    write_stepwise(tmp_path, [3, 2, 4, 3, 3, 2])
    # A learning rate at which the loss soon gets worse again.
    training = start(
        task,
        lr=0.3,
        epochs=20,
        chains_per_batch=4,
        validation_chains=2,
        validate_every_steps=1,
        patience=2,
    )
    losses: list[Any] = []
    students = []
    while not training.finished:
        training.train_step()
        losses.append(training.validate().validation_loss)
        gather_and_save(training, tmp_path / f"step-{training.step}")
        students.append(tmp_path / f"step-{training.step}")
    best = losses.index(min(losses))
    assert training.step == best + 3 < training.steps
    assert training.validations.best == [(losses[best], best + 1)]
    (candidate,) = (tmp_path / "training" / "candidates").iterdir()
    assert candidate.name == f"step-{best + 1:06d}"
    kept = AutoModelForCausalLM.from_pretrained(candidate, dtype=torch.float32).state_dict()
    expected = AutoModelForCausalLM.from_pretrained(students[best]).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(kept[name], weight, atol=0, rtol=2**-8)  # bf16 as its base


@pytest.mark.usefixtures("only_rank")
def test_a_validation_that_is_taken_up_again_remembers_the_best(tmp_path, task, write_stepwise):
    write_stepwise(tmp_path, [3, 2, 4, 3, 3, 2])
    values: dict[str, Any] = {
        "validation_chains": 2,
        "validate_every_steps": 1,
        "chains_per_batch": 2,
    }
    training = start(task, **values)
    training.train_step()
    training.validate()
    training.save(tmp_path / "checkpoint")
    assert start(task, tmp_path / "checkpoint", **values).validations == training.validations


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_lora_trains_adapters_only_and_exports_them_merged(tmp_path, task, zero_stage):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from steper_ray.training.student import gather_weights

    training = start(
        task,
        lora=LoraConfig(rank=4, alpha=8.0, dropout=0.1),
        zero_stage=zero_stage,
        gradient_checkpointing=True,
    )
    before = gather_weights(training.engine.module.model, keep=True)
    losses = [training.train_step().loss for _ in range(3)]
    assert losses[-1] < losses[0]
    weights = gather_weights(training.engine.module.model, keep=True)
    moved = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert moved
    assert all(".lora_" in name for name in moved)

    training.export()
    (candidate,) = (tmp_path / "training" / "candidates").iterdir()
    student = AutoModelForCausalLM.from_pretrained(candidate, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(task.train.model, dtype=torch.float32)
    # peft's own merge is the reference.
    settings = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(base, settings)
    missing = adapted.get_base_model().load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    expected = adapted.merge_and_unload().state_dict()
    found = student.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=0, rtol=2**-8)


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bf16_comes_close_to_fp32(task, zero_stage):
    exact, rounded = (
        start(task, precision=precision, zero_stage=zero_stage, chains_per_batch=3)
        for precision in ("fp32", "bf16")
    )
    for _ in range(3):
        expected, found = exact.train_step(), rounded.train_step()
        # Measured: at most 0.2 % and 0.8 %.
        assert found.loss == pytest.approx(expected.loss, rel=0.01)
        assert found.grad_norm == pytest.approx(expected.grad_norm, rel=0.03)


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize(
    ("settings", "minutes", "due"),
    [
        ({"checkpoint_every_minutes": 0.5}, 1, True),
        ({"checkpoint_every_minutes": 0.5}, 0, False),
        ({}, 31, True),
        ({}, 20, False),
        ({"checkpoint_every_minutes": 0}, 10_000, False),
    ],
)
def test_a_checkpoint_is_due_by_the_clock(task, settings, minutes, due):
    training = start(task, chains_per_batch=1, **settings)
    training.saved -= 60 * minutes
    training.train_step()
    assert training.checkpoint_due is due


@pytest.mark.usefixtures("only_rank")
def test_every_random_state_goes_on_from_a_checkpoint(tmp_path, task, device):
    import torch

    training = start(task)
    training.train_step()
    training.save(tmp_path / "checkpoint")

    def draws() -> list[float]:
        drawn = [torch.rand((), device=place).item() for place in ("cpu", device)]
        return [random.random(), float(np.random.random()), *drawn]

    expected = draws()
    random.seed(5)
    np.random.seed(5)
    start(task, tmp_path / "checkpoint")
    assert draws() == expected
