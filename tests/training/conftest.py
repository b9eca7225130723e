"""A tiny student, and step-wise examples of the toy world as the earlier stages write them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.arrow import CHAIN_SCHEMA, STEP_EXAMPLE_SCHEMA
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG, render_target
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import StepExample
from steper_ray.selection.abilities import STEPER, AbilityScheme
from steper_ray.toy.asking import REASONING, render_prompt
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.toy.world import World, make_world
from steper_ray.training.settings import TrainConfig
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.worker import prepare_process
from steper_ray.training.worker_spec import WorkerTask
from tests import plain_training as plain
from tests.tiny_model import save_tiny_model
from tests.training.one_rank import LR, SIGMA_LR


def chain_examples(
    world: World, rng: random.Random, chain_id: str, hops: int, scheme: AbilityScheme
) -> list[StepExample]:
    """A true chain of the world, one example a step, one passage a step."""
    chain = world.random_chain(rng, hops)
    question = world.question_text(chain)
    sentences = [world.sentence(fact) for fact in chain]
    sentences[-1] += f" {ANSWER_FLAG} {world.entities[chain[-1].object].name}."
    passages = [world.passage(fact.subject) for fact in chain]
    return [
        StepExample(
            id=f"{chain_id}/{step}",
            chain_id=chain_id,
            step=step,
            ability=scheme.of(step, hops),
            question=question,
            passages=tuple(passages[:step]),
            reasoning=tuple(sentences[: step - 1]),
            forced=False,
            prompt=render_prompt(question, passages[:step], sentences[: step - 1]),
            target=render_target(sentences[step - 1], forced=False),
        )
        for step in range(1, hops + 1)
    ]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of tiny models only wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def write_stepwise() -> Callable[..., list[StepExample]]:
    """Writes a run folder's chains and step-wise examples; one chain for each number of hops."""
    world = make_world(7)

    def write(run_dir: Path, hops: list[int], scheme: AbilityScheme = STEPER) -> list[StepExample]:
        rng = random.Random(0)
        examples = [
            example
            for number, count in enumerate(hops)
            for example in chain_examples(world, rng, f"c{number:04d}", count, scheme)
        ]
        rows = [asdict(example) for example in examples]
        half = len(rows) // 2
        for name, part in (("a", rows[:half]), ("b", rows[half:])):
            file = run_dir / "stepwise" / f"{name}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(part, STEP_EXAMPLE_SCHEMA), file)
        (run_dir / "chains").mkdir(exist_ok=True)
        chains = pa.Table.from_pylist([{"id": "c0000", "corpus_version": "v1"}], CHAIN_SCHEMA)
        pq.write_table(chains, run_dir / "chains" / "a.parquet")
        return examples

    return write


@pytest.fixture(scope="session")
def tiny_student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers, fp32, and the toy tokenizer.

    Its tied embedding is above the 100,000 numbers below which ZeRO-3 keeps a weight whole.
    """
    return save_tiny_model(tmp_path_factory.mktemp("tiny"), hidden_size=96)


@pytest.fixture(scope="session")
def reference() -> Callable[..., plain.Reference]:
    """`tests.plain_training.reference` with the tiny student's tokens."""
    return partial(plain.reference, encode=toy_ids())


@pytest.fixture(scope="session")
def plain_training() -> Callable[..., tuple[list[plain.PlainStep], Any]]:
    """`tests.plain_training.train` with the tiny student's tokens."""
    return partial(plain.train, encode=toy_ids())


def toy_ids() -> plain.Encode:
    """Prompt and target as the toy tokenizer splits them, in no template."""
    tokenizer = make_tokenizer()
    return lambda example: (
        tokenizer(example.prompt)["input_ids"],
        tokenizer(example.target)["input_ids"],
    )


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
        reasoning=complete_reasoning(ReasoningConfig(**REASONING, max_prompt_tokens=1000)),
        corpus_version="v1",
    )
    prepare_process(task)
    return task


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """For trackers: no address, network, home folder; and nothing is left running or lying about."""
    for name in list(os.environ):
        if name.startswith(("MLFLOW_", "WANDB_")):
            monkeypatch.delenv(name)
    # Set and taken away: what the tracker sets is taken away in the end.
    for name in ("ALLOW_FILE_STORE", "HTTP_REQUEST_MAX_RETRIES", "HTTP_REQUEST_TIMEOUT"):
        monkeypatch.setenv(f"MLFLOW_{name}", "")
        monkeypatch.delenv(f"MLFLOW_{name}")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("WANDB__DISABLE_STATS", "true")
    for name in ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "wandb-home"))
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    yield
    assert list(home.rglob("*")) == []
    assert list(here.rglob("*")) == []
    children = psutil.Process().children(recursive=True)
    assert [child.name() for child in children if child.name().startswith("wandb")] == []
