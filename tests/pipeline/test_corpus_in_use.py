"""What searches a corpus for long goes on with the version that it began with, which stays meanwhile."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steper_ray.evaluation import compare
from steper_ray.pipeline import plan, training
from steper_ray.ray_runtime.progress import StageProgress
from steper_ray.retrieval.corpus import build_corpus
from steper_ray.run.config import RunConfig
from steper_ray.run.versions import is_used
from steper_ray.sweep import sweep

PROGRESS = StageProgress("x", None, None)


def index(config: RunConfig) -> Path:
    """The new version."""
    build_corpus(config.corpus, out=config.folder.corpus, inputs=config.folder.inputs)
    return config.folder.corpus.resolve()


def _plan(config: RunConfig) -> object:
    return plan.plan_run(config)


def _train(config: RunConfig) -> object:
    best = config.train.model_copy(update={"best_by": "em"})
    return training.train_student(config.model_copy(update={"train": best}))


def _compare(config: RunConfig) -> object:
    return compare.compare(config, PROGRESS, training.train_student)


def _sweep(config: RunConfig) -> object:
    return sweep.sweep(config, PROGRESS, training.train_student)


@pytest.mark.parametrize(
    ("call", "module", "work"),
    [
        (_plan, plan, "plan_build"),
        (_train, training, "train"),
        (_compare, compare, "_compare"),
        (_sweep, sweep, "_sweep"),
    ],
)
def test_a_corpus_stays_while_it_is_searched(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[RunConfig], object],
    module: Any,
    work: str,
) -> None:
    config = RunConfig.model_validate(
        {"run": {"dir": str(tmp_path)}, "corpus": {"retriever": {"type": "none"}}}
    )
    first = index(config)
    given: list[Any] = []

    def at_work(*arguments: Any, **by_name: Any) -> None:
        index(config)
        index(config)  # which removes what is neither the newest nor in use
        assert is_used(first)
        assert first.is_dir()
        given.extend([*arguments, by_name.get("corpus")])

    monkeypatch.setattr(plan, "run_teachers", lambda _config: [])
    monkeypatch.setattr(plan, "training_questions", lambda _config: [])
    monkeypatch.setattr(module, work, at_work)
    call(config)
    if work != "train":  # which gets a function that scores
        assert first in given
    assert not is_used(first)
    index(config)
    assert not first.exists()
