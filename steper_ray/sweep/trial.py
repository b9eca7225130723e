"""One trial: a run of the trainer in a folder of its own, in the process of a Tune trial.

The process asks for no CPU and waits for its workers. Killed, it is started again and the trainer goes
on from its last checkpoint, which it finds by the name of the run; an outcome that is written down is
only reported again, and an error that starting again does not mend is raised again at once.
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steper_ray.errors import StageError, SteperError, find_steper_error
from steper_ray.sweep.space import Point, applied, data_key
from steper_ray.sweep.trial_files import (
    ERROR_FILE,
    OUTCOME_FILE,
    POINT_FILE,
    STOPPED_FILE,
    drop_bulk,
    keep_best_student,
    outcome_of,
    trial_folder,
    write_json,
)

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig
    from steper_ray.training.summary import TrainSummary


@dataclass(frozen=True, slots=True)
class TrialTask:
    """What every trial is told."""

    config: "RunConfig"
    """Of the sweep."""
    folder: Path
    """Of all trials."""
    prepared: Mapping[tuple[Any, ...], Path]
    """By `data_key`: the file with the examples."""
    train: "Callable[..., TrainSummary]"
    """Trains the student of a run file: `pipeline.training.train_student`."""
    start: str
    """Folder that relative paths of the run file are meant from."""


def trial_config(config: "RunConfig", point: Point, folder: Path) -> "RunConfig":
    """The run file of a trial."""
    train = applied(config.train, point).model_copy(update={"push_to_hub": None})
    run = config.run.model_copy(update={"dir": str(folder), "data": str(config.folder.data)})
    return config.model_copy(update={"run": run, "train": train})


def run_trial(task: TrialTask, number: int, point: Point) -> None:
    """Train, judge and write down; reports to Tune. Raises StageError if it failed."""
    from ray import tune

    from steper_ray.models.hub import use_hub
    from steper_ray.sweep.tune_callbacks import ReportValidations, release

    if Path(task.start).is_dir():
        os.chdir(task.start)
    # A report waits for the controller's next look; trials are short and report often.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    folder = trial_folder(task.folder, number)
    outcome, failed = folder / OUTCOME_FILE, folder / ERROR_FILE
    if outcome.is_file():
        values = json.loads(outcome.read_text(encoding="utf-8"))
        tune.report(final_report(values))
        return
    if failed.is_file():
        raise StageError(json.loads(failed.read_text(encoding="utf-8"))["error"])
    release(folder)  # where this process died before, its workers' place is still held
    (folder / STOPPED_FILE).unlink(missing_ok=True)
    write_json(folder / POINT_FILE, {"number": number, "point": point})
    use_hub(task.config.hub)
    started = time.monotonic()
    config = trial_config(task.config, point, folder)
    try:
        ranked = config.sweep.metric == "loss"
        prepared = task.prepared[data_key(config.train)]
        summary = task.train(
            config, prepared=prepared, callbacks=[ReportValidations(ranked=ranked)]
        )
        metric = summary.validation_loss
        if not ranked:
            metric = _score(config)
        assert metric is not None
    except SteperError as error:
        known = find_steper_error(error) or error
        write_json(failed, {"error": str(known)})
        raise
    values = outcome_of(metric, time.monotonic() - started, summary)
    write_json(outcome, values)
    drop_bulk(folder, keep_student=True)
    keep_best_student(task.folder, config.sweep.metric)
    tune.report(final_report(values))


def final_report(values: Mapping[str, Any]) -> dict[str, Any]:
    """What Tune is told at the end of a trial."""
    return {
        "metric": values["metric"],
        "step": values["training"]["planned_steps"],
        "steps": values["training"]["planned_steps"],
    }


def _score(config: "RunConfig") -> float:
    """EM or F1 of the trial's student on the dev questions."""
    from steper_ray.data.questions import load_questions
    from steper_ray.evaluation.answer import answer
    from steper_ray.evaluation.summary import summarize

    questions = load_questions(config, "dev")[: config.eval.limit]
    rows = answer(config, str(config.folder.student), questions, config.folder.root / "dev")
    overall = summarize(rows).overall
    return overall.em if config.sweep.metric == "em" else overall.f1
