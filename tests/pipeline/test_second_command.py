"""A second command that would write to what another one is writing is refused before anything starts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steper_ray.errors import InputError
from steper_ray.evaluation.compare import compare
from steper_ray.evaluation.evaluate import evaluate
from steper_ray.pipeline import execute
from steper_ray.pipeline.execute import run_stages
from steper_ray.pipeline.ledger import forget, run_pending_stages
from steper_ray.pipeline.stage_range import run_range
from steper_ray.pipeline.stages import ORDER, STAGES
from steper_ray.pipeline.training import forecast_training, train_student
from steper_ray.ray_runtime.progress import StageProgress
from steper_ray.retrieval.corpus import build_corpus
from steper_ray.run.config import RunConfig
from steper_ray.run.lock import locked
from steper_ray.sweep.sweep import sweep
from steper_ray.toy.write import MODELS, write_toy

REFUSED = r": another command is writing to it: .* \(process \d+ on "


def run_in(folder: Path, **sections: Any) -> RunConfig:
    return RunConfig.model_validate({"run": {"dir": str(folder)}, **sections})


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(_config: RunConfig) -> None:
        raise AssertionError("Ray was about to start")

    monkeypatch.setattr(execute, "checked_session", session)
    monkeypatch.setattr("steper_ray.pipeline.check.checked_session", session)


@pytest.mark.usefixtures("no_ray")
@pytest.mark.parametrize("name", [name for name, stage in STAGES.items() if stage.lease])
def test_a_stage_whose_output_is_being_written_is_refused_before_ray_starts(
    tmp_path: Path, name: str
) -> None:
    config = run_in(tmp_path)
    lease = STAGES[name].lease
    assert lease is not None
    with locked(getattr(config.folder, lease)), pytest.raises(InputError, match=REFUSED):
        run_stages([name], config)
    assert not (tmp_path / "logs").exists(), "it would hide the launch that runs"


@pytest.mark.usefixtures("no_ray")
def test_a_range_is_refused_while_another_one_or_a_stage_of_it_runs(tmp_path: Path) -> None:
    config = run_in(tmp_path)
    with locked(config.folder.ledger):
        for refused in (
            lambda: run_range(config, "index..train"),
            lambda: run_stages(["eval"], config),
        ):
            with pytest.raises(InputError, match=rf"stages\.json{REFUSED}"):
                refused()
    with locked(config.folder.training), pytest.raises(InputError, match=rf"training{REFUSED}"):
        run_range(config, "index..train")


def test_the_ledger_has_one_writer(tmp_path: Path) -> None:
    config = run_in(tmp_path)
    config.folder.ledger.write_text("{}")
    with locked(config.folder.ledger):
        with pytest.raises(InputError, match=REFUSED):
            run_pending_stages(ORDER, config)
        forget("train", config)  # which is not in it
    config.folder.ledger.write_text('{"train": {}}')
    with locked(config.folder.ledger), pytest.raises(InputError, match=REFUSED):
        forget("train", config)
    forget("build", config)
    assert config.folder.ledger.read_text() == "{}\n"


def _index(config: RunConfig) -> None:
    folder = config.folder
    build_corpus(config.corpus, out=folder.corpus, inputs=folder.inputs)


def _evaluate(config: RunConfig) -> None:
    folder = config.folder
    _index(config)
    evaluate({}, [], corpus=folder.corpus, out=folder.evaluation, log=folder.log("eval"))


def _progress() -> StageProgress:
    return StageProgress("x", None, None)


@pytest.mark.parametrize(
    ("output", "call"),
    [
        ("toy", lambda config: write_toy(config.toy, config.folder.toy)),
        ("corpus", _index),
        ("training", train_student),
        ("training", forecast_training),
        ("evaluation", _evaluate),
        ("compare", lambda config: compare(config, _progress(), train_student)),
        ("sweep", lambda config: sweep(config, _progress(), train_student)),
    ],
)
def test_the_writer_itself_holds_the_lease(
    tmp_path: Path, output: str, call: Callable[[RunConfig], object]
) -> None:
    """Also of commands on other machines, which only the one who takes the lease can watch."""
    config = run_in(
        tmp_path,
        corpus={"retriever": {"type": "none"}},
        train={"model": str(MODELS / "base")},
    )
    with locked(getattr(config.folder, output)), pytest.raises(InputError, match=REFUSED):
        call(config)
