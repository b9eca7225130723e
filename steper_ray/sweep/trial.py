"""One trial: a training in a run folder of its own, in the process of a Tune trial.

The process asks for no CPU and waits for its workers. A killed process is started again, and the training
resumes from its last checkpoint. A recorded outcome is only reported again, and a recorded error raised
again at once: another start would not mend it. Nor would it mend a training that diverged: that is an
outcome too, the worst.
"""

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steper_ray.errors import DivergedError, StageError, SteperError, find_steper_error
from steper_ray.ray_runtime.logs import launch
from steper_ray.sweep.space import Point, applied, budget
from steper_ray.sweep.trial_files import (
    DIVERGED_FILE,
    ERROR_FILE,
    OUTCOME_FILE,
    POINT_FILE,
    STOPPED_FILE,
    WORST,
    drop_bulk,
    keep_best_student,
    outcome_of,
    trial_folder,
    write_json,
)

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig
    from steper_ray.training.summary import TrainSummary


logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrialTask:
    """Settings and files that all trials of a sweep share."""

    config: "RunConfig"
    """The run file of the sweep."""
    folder: Path
    """Parent of the trials' folders."""
    train: "Callable[..., TrainSummary]"
    """Trains the student of a run file: `pipeline.training.train_student`."""
    corpus: Path
    """The version of the corpus that students are scored on, which the sweep holds."""
    start: str
    """Folder that relative paths of the run file start from."""


def trial_config(config: "RunConfig", point: Point, folder: Path) -> "RunConfig":
    """The run file of a trial in its folder."""
    train = applied(config.train, point).model_copy(update={"push_to_hub": None})
    run = config.run.model_copy(update={"dir": str(folder), "data": str(config.folder.data)})
    evaluation = config.eval
    if config.sweep.engine is not None:
        evaluation = evaluation.model_copy(update={"engine": config.sweep.engine, "engines": {}})
    return config.model_copy(update={"run": run, "train": train, "eval": evaluation})


def run_trial(task: TrialTask, number: int, point: Point) -> None:
    """Train and score a trial, write its outcome or error, and report to Tune.

    Raises SteperError if the training fails; a training that diverges does not, which ends the trial.
    """
    from ray import tune

    if Path(task.start).is_dir():
        os.chdir(task.start)
    # A report waits for the controller's next look; trials are short and report often.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    folder = trial_folder(task.folder, number)
    outcome, failure = folder / OUTCOME_FILE, folder / ERROR_FILE
    if outcome.is_file():
        values = json.loads(outcome.read_text(encoding="utf-8"))
        tune.report(final_report(values))
        return
    if (folder / DIVERGED_FILE).is_file():
        tune.report({"metric": WORST[task.config.sweep.metric]})
        return
    if failure.is_file():
        raise StageError(json.loads(failure.read_text(encoding="utf-8"))["error"])
    (folder / STOPPED_FILE).unlink(missing_ok=True)
    config = trial_config(task.config, point, folder)
    with launch(config.folder.log("train"), config.run.log_format):
        _train_and_score(task, config, number, point)


def _train_and_score(task: TrialTask, config: "RunConfig", number: int, point: Point) -> None:
    """Train and score a trial that has no outcome yet."""
    from ray import tune

    from steper_ray.models.hub import use_hub
    from steper_ray.sweep.tune_callbacks import ReportValidations

    folder = config.folder.root
    outcome, failure = folder / OUTCOME_FILE, folder / ERROR_FILE
    logger.info("trial %d starts: %s", number, point)
    write_json(folder / POINT_FILE, {"number": number, "point": point})
    use_hub(task.config.hub)
    started = time.monotonic()
    try:
        ranked = config.sweep.metric == "loss"
        callback = ReportValidations(
            ranked=ranked, budget=partial(budget, config.sweep, config.train)
        )
        summary = task.train(config, corpus=task.corpus, callbacks=[callback])
        metric = summary.validation_loss if ranked else _score(config, task.corpus)
        assert metric is not None
        if not math.isfinite(metric):
            raise DivergedError("train: no validation loss was a finite number; lower train.lr")
    except DivergedError as error:
        logger.warning("trial %d diverged: %s", number, error)
        write_json(folder / DIVERGED_FILE, {"error": str(error)})
        drop_bulk(folder, keep_student=False)
        tune.report({"metric": WORST[config.sweep.metric]})
        return
    except SteperError as error:
        known = find_steper_error(error) or error
        logger.exception("trial %d failed", number)
        write_json(failure, {"error": str(known)})
        raise
    values = outcome_of(metric, time.monotonic() - started, summary)
    logger.info("trial %d is done: %s %.6g", number, config.sweep.metric, metric)
    write_json(outcome, values)
    drop_bulk(folder, keep_student=True)
    keep_best_student(task.folder, config.sweep.metric)
    tune.report(final_report(values))


def final_report(values: Mapping[str, Any]) -> dict[str, Any]:
    """Report of a finished trial to Tune, from its outcome."""
    return {
        "metric": values["metric"],
        "step": values["training"]["planned_steps"],
        "steps": values["training"]["planned_steps"],
    }


def _score(config: "RunConfig", corpus: Path) -> float:
    """EM or F1 of the trial's student on the dev questions."""
    from steper_ray.evaluation.compare import dev_scores

    scores = dev_scores(config, config.folder.student, config.folder.root / "dev", corpus)
    return scores.em if config.sweep.metric == "em" else scores.f1
