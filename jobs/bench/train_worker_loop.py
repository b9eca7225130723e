"""The train stage's own worker loop as a contender of `train.py`: under Ray Train, and without Ray.

Each contender returns {"tokens_per_second": …, "peak": bytes, …}.
"""

import json
import os
import socket
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train_settings import Setting
from train_workload import (
    make_model,
)


def write_run(setting: Setting, folder: Path) -> Any:
    """A run of the toy world with the true chains as step-wise examples."""
    import random
    from dataclasses import asdict

    import pyarrow as pa
    import pyarrow.parquet as pq
    from transformers import AutoTokenizer

    from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
    from steper_ray.cli import TOY_RUN_FILE
    from steper_ray.reasoning.frameworks.ircot import render_target
    from steper_ray.run.loading import load_config
    from steper_ray.schema import StepExample
    from steper_ray.selection.abilities import STEPER
    from steper_ray.toy.asking import render_prompt
    from steper_ray.toy.pretrain_rows import rationales
    from steper_ray.toy.world import make_world
    from steper_ray.toy.write import MODELS

    world, rng, rows = make_world(1), random.Random(0), []
    for number in range(240):
        chain = world.random_chain(rng, 2 + number % 3)
        sentences, question = rationales(world, chain), world.question_text(chain)
        copies = setting.passage_copies
        passages = tuple(world.passage(fact.subject) for fact in chain for _ in range(copies))
        rows += [
            StepExample(
                id=f"{number}/{step}",
                chain_id=str(number),
                step=step,
                ability=STEPER.of(step, len(chain)),
                question=question,
                passages=passages[: step * copies],
                reasoning=sentences[: step - 1],
                forced=False,
                prompt=render_prompt(question, passages[: step * copies], sentences[: step - 1]),
                target=render_target(sentences[step - 1], forced=False),
            )
            for step in range(1, len(chain) + 1)
        ]
    base = MODELS / "base"
    if setting.own_student:
        AutoTokenizer.from_pretrained(base).save_pretrained(folder / "base")
        base = folder / "base"
        make_model(setting).save_pretrained(base)
    config = load_config(TOY_RUN_FILE, [f"run.dir={folder}", f"train.model={base}", *setting.train])
    config.folder.examples.mkdir(parents=True)
    table = pa.Table.from_pylist([asdict(row) for row in rows], STEP_EXAMPLE_SCHEMA)
    pq.write_table(table, config.folder.examples / "examples.parquet")
    return config


def run_loop_without_ray(setting: Setting) -> dict[str, Any]:
    """The worker's loop under ZeRO-3, started by hand."""
    from steper_ray.training.rank import RankTraining
    from steper_ray.training.tokenization import stepwise_files
    from steper_ray.training.worker import prepare_process
    from steper_ray.training.worker_spec import worker_task

    with tempfile.TemporaryDirectory() as folder:
        config = write_run(setting, Path(folder))
        task = worker_task(
            config.train,
            stepwise_files(config.folder.examples),
            out=config.folder.root,
            seed=config.run.seed,
            reasoning=config.reasoning,
            corpus_version="",
        )
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
    return loop_outcome(metrics)


def run_loop_under_ray(setting: Setting) -> dict[str, Any]:
    """The train stage, as users run it."""
    from steper_ray.pipeline.training import train_student
    from steper_ray.ray_runtime.session import ray_session

    with tempfile.TemporaryDirectory() as folder:
        config = write_run(setting, Path(folder))
        with ray_session():
            train_student(config)
        lines = config.folder.metrics.read_text(encoding="utf-8").splitlines()
    return loop_outcome([json.loads(line) for line in lines])


def loop_outcome(metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of a worker loop without its first two steps; MFU is of the GPU's stated peak."""
    late = metrics[2:]
    return {
        "tokens_per_second": statistics.median(step["tokens_per_second"] for step in late),
        "mfu_of_stated_peak": late[0]["mfu"] and statistics.median(step["mfu"] for step in late),
        "peak": int(late[-1]["peak_memory_gib"] * 2**30),
    }
