"""The product's own training as a contender of `train.py`: as users run it, and without Ray.

It trains on the chains of the other contenders, all of them in each optimizer step, with what a user's
training has beside the model's work: DeepSpeed's ZeRO-3 with fp32 masters, clipping, σ, training data from
disk, and a line of metrics a step. On a GPU it therefore holds more memory than the plain loops, which keep
bf16 weights alone.
"""

import json
import os
import socket
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

from train_chains import (
    STEPS,
    make_chains,
    make_examples,
    reasoning_of,
    separate_tokens,
    tree_tokens,
    word_tokenizer,
)
from train_settings import Setting
from train_workload import LR, make_model, utilisation

FRAMEWORK: Final = "ircot"


def write_run(setting: Setting, folder: Path) -> Any:
    """A run whose step-wise examples are the chains of the other contenders, and its base student."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
    from steper_ray.run.config import RunConfig
    from steper_ray.run.settings import RunSection
    from steper_ray.training.settings import TrainConfig

    base = folder / "base"
    word_tokenizer().save_pretrained(base)
    make_model(setting).save_pretrained(base)
    pass_tokens = tree_tokens(make_chains(FRAMEWORK, setting.together))
    config = RunConfig(
        run=RunSection(dir=str(folder)),
        reasoning=reasoning_of(FRAMEWORK),
        train=TrainConfig(
            model=str(base),
            lr=LR,
            epochs=setting.loop_steps,
            chains_per_batch=setting.chains,
            micro_batch_tokens=pass_tokens,
            gradient_checkpointing=setting.gradient_checkpointing,
            workers=1,
            cpus_per_worker=os.cpu_count() or 1,
            use_gpu=setting.gpu,
            num_to_keep=1,
        ),
    )
    config.folder.examples.mkdir(parents=True)
    rows = [asdict(example) for example in make_examples(FRAMEWORK, setting.chains)]
    table = pa.Table.from_pylist(rows, STEP_EXAMPLE_SCHEMA)
    pq.write_table(table, config.folder.examples / "examples.parquet")
    return config


def prepared_task(config: Any) -> Any:
    """What the train stage gives its workers for a run, its training data being made."""
    from steper_ray.training.preparation import prepare
    from steper_ray.training.tokenization import stepwise_files
    from steper_ray.training.worker_spec import worker_task

    task = worker_task(
        config.train,
        stepwise_files(config.folder.examples),
        out=config.folder.root,
        seed=config.run.seed,
        reasoning=config.reasoning,
        corpus_version="",
    )
    return replace(task, prepared=str(prepare(task, config.folder.prepared)))


def run_loop_without_ray(setting: Setting) -> dict[str, Any]:
    """The worker's loop under ZeRO-3, started by hand."""
    from steper_ray.training.rank import RankTraining
    from steper_ray.training.worker import prepare_process

    with tempfile.TemporaryDirectory() as folder:
        task = prepared_task(write_run(setting, Path(folder)))
        prepare_process(task)
        import torch

        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        if setting.gpu:
            torch.cuda.set_device(setting.device)
        torch.distributed.init_process_group("nccl" if setting.gpu else "gloo")
        training = RankTraining(task, 0, 1, torch.device(setting.device))
        metrics = [training.train_step().as_row() for _ in range(training.steps)]
        torch.distributed.destroy_process_group()
    return loop_outcome(setting, metrics)


def run_loop_under_ray(setting: Setting) -> dict[str, Any]:
    """The train stage, as users run it."""
    from steper_ray.pipeline.training import train_student
    from steper_ray.ray_runtime.session import ray_session

    with tempfile.TemporaryDirectory() as folder:
        config = write_run(setting, Path(folder))
        with ray_session():
            train_student(config)
        lines = config.folder.metrics.read_text(encoding="utf-8").splitlines()
    return loop_outcome(setting, [json.loads(line) for line in lines])


def loop_outcome(setting: Setting, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of a worker loop without its first two steps.

    `ability_losses` are those of the first step, before the weights moved.
    """
    late = metrics[2:]
    chains = make_chains(FRAMEWORK, setting.chains)
    assert all(step["examples"] == setting.chains * STEPS for step in metrics), "other batches"
    seconds, rate, computed = (
        statistics.median(step[name] for step in late)
        for name in ("seconds", "tokens_per_second", "computed_tokens_per_second")
    )
    return {
        "seconds": seconds,
        "tokens_per_second": rate,
        "computed_tokens_per_second": computed,
        "ability_losses": [metrics[0][f"L_{ability}"] for ability in ("init", "exp", "agg")],
        "tree_token_ratio": separate_tokens(chains) / tree_tokens(chains),
        "peak": int(late[-1]["peak_memory_gib"] * 2**30),
    } | utilisation(setting, chains, seconds)
