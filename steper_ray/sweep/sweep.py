"""The sweep stage: many short trainings with other settings; the best trial becomes a run file.

The same command resumes where the last one stopped, also with more `trials`: a sweep has a folder of its
own with a record of everything that its trials depend on, and what trials have come to stays.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from steper_ray.errors import ConfigError
from steper_ray.files import new_folder, write_whole
from steper_ray.models.folder import check_model
from steper_ray.ray_runtime.room import read_cluster
from steper_ray.run.dependencies import sweep_identity
from steper_ray.run.identity import RECORD_FILE, Record, because, digest, find_folder, write_record
from steper_ray.run.loading import run_file_text
from steper_ray.run.lock import locked
from steper_ray.run.versions import in_use
from steper_ray.sweep.capacity import asking_engine, check_capacity
from steper_ray.sweep.earlier import numbers_to_run
from steper_ray.sweep.live_table import showing_trials
from steper_ray.sweep.space import Point, applied, check_space, data_settings, points
from steper_ray.sweep.trial import TrialTask, trial_config
from steper_ray.sweep.trial_files import Trial, best_trial, drop_bulk, read_trials
from steper_ray.sweep.trial_table import write_tables
from steper_ray.sweep.tuner import run_trials
from steper_ray.training.resume import task_identity
from steper_ray.training.storage import check_storage, folder_size, needed_storage
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.trackers import check_trackers
from steper_ray.training.train import prepare_data
from steper_ray.training.worker_spec import (
    CANDIDATES,
    WorkerTask,
    read_corpus_version,
    read_scheme,
    worker_task,
)

if TYPE_CHECKING:
    from steper_ray.ray_runtime.progress import StageProgress
    from steper_ray.run.config import RunConfig
    from steper_ray.training.settings import TrainConfig
    from steper_ray.training.summary import TrainSummary


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """All trials of a sweep, and the best of them."""

    trials: list[Trial]
    best: Trial | None
    """None where no trial finished."""
    at_a_time: int
    """Upper bound of the trials that ran at a time."""


def sweep(
    config: "RunConfig", progress: "StageProgress", train: "Callable[..., TrainSummary]"
) -> SweepSummary:
    """All trials of a sweep; those that have ended are not run again.

    Writes the tables and the best trial's run to `sweep/`. Students are scored on the version of the corpus
    that is the newest now. Needs a running Ray and step-wise examples with their chains. Raises InputError
    before the first trial for settings that cannot be run, and if another command sweeps.
    """
    with locked(config.folder.sweep), in_use(config.folder.corpus) as corpus:
        return _sweep(config, progress, train, corpus)


def _sweep(
    config: "RunConfig",
    progress: "StageProgress",
    train: "Callable[..., TrainSummary]",
    corpus: Path,
) -> SweepSummary:
    """`sweep` on a version of the corpus."""
    section = config.sweep
    check_space(section, config.train)
    for settings in data_settings(section, config.train):
        check_model(settings.model, "train.model", settings.revision)
    check_trackers(config.train.trackers)
    if section.search == "optuna" and find_spec("optuna") is None:
        raise ConfigError("sweep.search: optuna is not installed; pip install 'steper_ray[optuna]'")
    all_points = (
        None if section.search == "optuna" else points(section, config.train, config.run.seed)
    )
    total = section.trials if all_points is None else len(all_points)
    at_a_time = check_capacity(config, read_cluster(), total)
    folder = sweep_folder(config)
    _prepare(config)
    task = TrialTask(config, folder / "trials", train, corpus, str(Path.cwd()))
    _check_room(config, task.folder, all_points, at_a_time)
    with showing_trials(task.folder, config.sweep, total, progress):
        run_trials(task, folder / "tune", all_points, at_a_time)
    trials = read_trials(task.folder, section.metric)
    for trial in trials:
        if trial.status == "stopped":  # its workers may have written on while Tune stopped it
            drop_bulk(trial.folder, keep_student=False)
    write_tables(config.folder.sweep, trials, section.metric)
    best = best_trial(trials, section.metric)
    if best is not None:
        _export(config, best)
    return SweepSummary(trials, best, at_a_time)


def sweep_folder(config: "RunConfig") -> Path:
    """The folder of a sweep: the existing one with the same record, else a new one with its record in it.

    Prints in one line why a sweep starts anew where other sweeps exist.
    """
    identity = identity_of(config)
    folder, others = find_folder(config.folder.sweep / "runs", identity)
    if not folder.is_dir():
        if others:
            other, changed = others[0]
            print(f" sweep  starts anew because {because(changed)}; trials of {other} remain")
        write_record(folder / RECORD_FILE, identity)
    return folder


def identity_of(config: "RunConfig") -> Record:
    """The identity of a sweep: everything that all its trials depend on."""
    from steper_ray.data.questions import load_questions

    sources = stepwise_files(config.folder.examples)
    trains = data_settings(config.sweep, config.train)
    tasks = [_worker_task(config, train, sources) for train in trains]
    judged = None
    if config.sweep.metric != "loss":
        engine = asking_engine(config)
        questions = load_questions(config.questions, "dev", config.folder.inputs)[
            : config.eval.limit
        ]
        judged = {
            "questions": digest([[q.id, q.question, *q.gold_answers] for q in questions]),
            "dtype": engine.dtype,
            "args": engine.args,
        }
    models = [dict(task.base_model) for task in tasks]
    return sweep_identity(config.sweep, task_identity(tasks[0]), models=models, judged=judged)


def _worker_task(config: "RunConfig", train: "TrainConfig", files: Sequence[Path]) -> WorkerTask:
    """The task of the workers of a trial with these settings; `files` are from `stepwise_files`."""
    return worker_task(
        train,
        files,
        out=config.folder.root,
        seed=config.run.seed,
        reasoning=config.reasoning,
        corpus_version=read_corpus_version(config.folder.chains),
        hub=config.hub,
        scheme=read_scheme(config.folder.stats),
    )


def _prepare(config: "RunConfig") -> None:
    """Prepare the training data of all trials, so that no two of them do it at a time."""
    sources = stepwise_files(config.folder.examples)
    for train in data_settings(config.sweep, config.train):
        task = _worker_task(config, train, sources)
        prepare_data(task, config.folder.prepared)


def _check_room(
    config: "RunConfig", folder: Path, all_points: Sequence[Point] | None, at_a_time: int
) -> None:
    """Raises InputError if the disk has no room for the trials that run at a time.

    folder: of all trials; what unfinished ones have written counts as there
    """
    trials = read_trials(folder, config.sweep.metric)
    total = config.sweep.trials if all_points is None else len(all_points)
    to_run = len(numbers_to_run(trials, total))
    trains = data_settings(config.sweep, config.train)
    if all_points is not None:
        trains = [applied(config.train, point) for point in all_points]
    distinct = {(train.model, train.revision, str(train.lora)): train for train in trains}
    sizes = [needed_storage(train, config.hub) for train in distinct.values() if to_run]
    needed = max(filter(None, sizes), key=lambda size: size.total, default=None)
    parts = ("checkpoints", f"training/{CANDIDATES}")
    begun = [trial.folder for trial in trials if trial.status == "unfinished"]
    there = folder_size(trial / part for trial in begun for part in parts)
    check_storage(folder, needed, there=there, trials=min(at_a_time, to_run))


def _export(config: "RunConfig", best: Trial) -> None:
    """Copy the best trial's student and training to `best/`, and write its run file, `best.yaml`."""
    target = config.folder.sweep / "best"
    with new_folder(target) as folder:
        for name in ("student", "training"):
            shutil.copytree(best.folder / name, folder / name)
    best_config = trial_config(config, best.point, target)
    best_config = best_config.model_copy(update={"eval": config.eval})  # not the sweep's engines
    values = best_config.model_dump(mode="json", exclude={"sweep"})
    values["train"]["push_to_hub"] = config.train.push_to_hub
    head = (
        f"# The best of a sweep: trial {best.number}, {config.sweep.metric} {best.metric:.6g}.\n"
        "# `steper train --config` on it finds its student there; with another run.dir it trains again.\n"
    )
    write_whole(config.folder.sweep / "best.yaml", head + run_file_text(values))
