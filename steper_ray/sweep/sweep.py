"""A sweep: many short trainings with other settings, on Ray Tune; the best one becomes a run file.

The same command resumes where the last one stopped: a sweep has a folder of its own with a record of
everything that its trials depend on, Tune's state is restored from it, and a recorded outcome stays.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final

import yaml

from steper_ray.errors import ConfigError, StageError, find_steper_error
from steper_ray.files import write_whole
from steper_ray.models.folder import check_model
from steper_ray.run.dependencies import sweep_identity
from steper_ray.run.identity import RECORD_FILE, Record, because, digest, find_folder, write_record
from steper_ray.sweep.capacity import check_capacity
from steper_ray.sweep.space import (
    Point,
    check_space,
    chosen,
    data_key,
    data_settings,
    optuna_space,
    points,
    resolved,
)
from steper_ray.sweep.trial import TrialTask, run_trial, trial_config
from steper_ray.sweep.trial_files import (
    ERROR_FILE,
    Trial,
    best_trial,
    drop_bulk,
    read_trials,
    short,
    status_counts,
    table_rows,
    write_tables,
)
from steper_ray.training.resume import task_identity
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.trackers import check_trackers
from steper_ray.training.worker_spec import (
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


LIVE_ROWS: Final = 16
"""Trials in the table on the terminal."""


LONGEST: Final = 10**6
"""ASHA's last rung: it ends trials there, so it lies beyond all."""


@dataclass(frozen=True, slots=True)
class SweepSummary:
    """What a sweep came to."""

    trials: list[Trial]
    best: Trial
    at_a_time: int
    """Trials that ran at a time, at most."""


def sweep(
    config: "RunConfig", progress: "StageProgress", train: "Callable[..., TrainSummary]"
) -> SweepSummary:
    """Run all trials that have not ended; writes the table, the page and the best run to `sweep/`.

    Needs a running Ray and step-wise examples with their chains. Raises InputError before the first trial
    for what cannot be run, and StageError if no trial finished.
    """
    from steper_ray.reports.sweep_page import write_page

    section = config.sweep
    check_space(section, config.train)
    for train in data_settings(section, config.train):
        check_model(train.model, "train.model", train.revision)
    check_trackers(config.train.trackers)
    if section.search == "optuna" and find_spec("optuna") is None:
        raise ConfigError("sweep.search: optuna is not installed; pip install 'steper_ray[optuna]'")
    known = None if section.search == "optuna" else points(section, config.train, config.run.seed)
    at_a_time = check_capacity(config, _nodes())
    folder = sweep_folder(config)
    task = TrialTask(config, folder / "trials", _prepare(config, folder), train, str(Path.cwd()))
    total = len(known) if known is not None else section.trials
    with _following(task.folder, config, total, progress):
        _tune(task, folder, known, at_a_time)
    trials = read_trials(task.folder, section.metric)
    for trial in trials:
        if trial.status == "stopped":  # its last workers may have written on while it was stopped
            drop_bulk(trial.folder, keep_student=False)
    write_tables(config.folder.sweep, trials, section.metric)
    best = best_trial(trials, section.metric)
    write_page(config, trials, best)
    if best is None:
        first = next((f"; the first error: {t.error}" for t in trials if t.error), "")
        raise StageError(
            f"tune: none of {len(trials):,} trials finished{first}; all are in "
            f"{config.folder.sweep / 'trials.csv'}"
        )
    _export(config, best)
    return SweepSummary(trials, best, at_a_time)


def sweep_folder(config: "RunConfig") -> Path:
    """The folder of a sweep: the existing one with the same record, else a new one with its record in it.

    Says in one line why a sweep starts anew where others are there.
    """
    identity = identity_of(config)
    folder, others = find_folder(config.folder.sweep / "runs", identity)
    if not folder.is_dir():
        if others:
            other, found = others[0]
            print(f"  tune  starts anew because {because(found)}; trials of {other} remain")
        write_record(folder / RECORD_FILE, identity)
    return folder


def identity_of(config: "RunConfig") -> Record:
    """The record of what all trials of a sweep depend on."""
    from steper_ray.data.questions import load_questions

    sources = stepwise_files(config.folder.examples)
    trains = data_settings(config.sweep, config.train)
    tasks = [_worker_task(config, train, sources) for train in trains]
    judged = None
    if config.sweep.metric != "loss":
        questions = load_questions(config, "dev")[: config.eval.limit]
        judged = {
            "questions": digest([[one.id, one.question, *one.gold_answers] for one in questions]),
            "dtype": config.engine.dtype,
            "args": config.engine.args,
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


def _nodes() -> list[dict[str, float]]:
    """CPUs and GPUs of every node that is alive."""
    import ray

    return [
        {name: float(node["Resources"].get(name, 0.0)) for name in ("CPU", "GPU")}
        for node in ray.nodes()
        if node["Alive"]
    ]


def _prepare(config: "RunConfig", folder: Path) -> dict[tuple[Any, ...], Path]:
    """The examples for each setting of the data, prepared in a process of their own."""
    import ray
    import ray.exceptions

    from steper_ray.training.training_data import prepare_file

    files: dict[tuple[Any, ...], Path] = {}
    waiting = []
    # Loosely typed: Ray's annotations end at options().
    remote: Any = ray.remote(prepare_file)
    sources = stepwise_files(config.folder.examples)
    for train in data_settings(config.sweep, config.train):
        key = data_key(train)
        name = digest(key)
        files[key] = folder / "data" / f"{name}.parquet"
        task = _worker_task(config, train, sources)
        waiting.append(remote.remote(task, files[key]))
    try:
        ray.get(waiting)
    except ray.exceptions.RayTaskError as error:
        if (known := find_steper_error(error)) is not None:
            raise known from None
        raise
    return files


def _tune(task: TrialTask, folder: Path, known: Sequence[Point] | None, at_a_time: int) -> None:
    """Run the trials on Tune, from where the last call stopped."""
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the command as any other
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints a box whatever `verbose` says
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    from ray import tune

    from steper_ray.ray_runtime.logs import quieten
    from steper_ray.sweep.tune_callbacks import WriteEnds

    config, section = task.config, task.config.sweep
    quieten()
    if section.retry_failed:
        for file in task.folder.glob(f"*/{ERROR_FILE}"):
            file.unlink()

    def trial(proposal: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_name()
        assert name is not None
        point = known[proposal["point"]] if known else chosen(section, proposal)
        run_trial(task, int(name), point if known else resolved(config.train, point))

    # Tune wants at least one resource; a process that waits must not take a CPU from the workers.
    trainable = tune.with_resources(trial, {"CPU": 0, "memory": 1})
    place = folder / "tune"
    begun = tune.Tuner.can_restore(str(place)) and any(place.glob("experiment_state*.json"))
    if begun:
        tuner = tune.Tuner.restore(str(place), trainable, resume_errored=section.retry_failed)
    else:
        shutil.rmtree(place, ignore_errors=True)
        space = {"point": tune.grid_search(list(range(len(known))))} if known else {}
        mode = "min" if section.metric == "loss" else "max"
        tuner = tune.Tuner(
            trainable,
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="metric",
                mode=mode,
                num_samples=1 if known else section.trials,
                max_concurrent_trials=at_a_time,
                search_alg=None if known else _optuna(config, mode),
                scheduler=_scheduler(config),
                trial_name_creator=_name,
                trial_dirname_creator=_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder.absolute()),
                failure_config=tune.FailureConfig(max_failures=section.max_restarts),
                callbacks=[WriteEnds(task.folder)],
                verbose=0,
            ),
        )
    tuner.fit()


def _name(trial: Any) -> str:
    """The number of a Tune trial, counted from 1."""
    place = trial.config.get("point")
    number = int(trial.experiment_tag.split("_")[0]) if place is None else place + 1
    return f"{number:04d}"


def _optuna(config: "RunConfig", mode: str) -> Any:
    """Optuna's TPE; a third of the trials are drawn at random first."""
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    first = min(10, max(2, config.sweep.trials // 3))
    sampler = optuna.samplers.TPESampler(seed=config.run.seed, n_startup_trials=first)
    space = optuna_space(config.sweep, config.train)
    return OptunaSearch(space, metric="metric", mode=mode, sampler=sampler)


def _scheduler(config: "RunConfig") -> Any:
    if config.sweep.scheduler == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    return ASHAScheduler(
        time_attr="validations",
        grace_period=config.sweep.asha_grace,
        reduction_factor=config.sweep.asha_factor,
        max_t=LONGEST,
    )


def _export(config: "RunConfig", best: Trial) -> None:
    """Put the best trial's run into `best/`, and the run file that gives it beside."""
    target = config.folder.sweep / "best"
    partial = target.with_name("best.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for name in ("student", "training"):
        shutil.copytree(best.folder / name, partial / name)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    its_config = trial_config(config, best.point, target)
    values = its_config.model_dump(mode="json", exclude={"sweep"})
    values["train"]["push_to_hub"] = config.train.push_to_hub
    head = (
        f"# The best of a sweep: trial {best.number}, {config.sweep.metric} {best.metric:.6g}.\n"
        "# `steper train --config` on it finds its student there; with another run.dir it trains again.\n"
    )
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_whole(config.folder.sweep / "best.yaml", head + text)


@contextmanager
def _following(
    folder: Path, config: "RunConfig", total: int, progress: "StageProgress"
) -> Iterator[None]:
    """Show the trials' table while the block runs."""
    stop = Event()
    metric = config.sweep.metric
    over: dict[int, Trial] = {}
    """Trials that have ended: nothing of them changes any more."""

    def show() -> None:
        before = len(over)
        trials = read_trials(folder, metric, known=over)
        over.update({t.number: t for t in trials if t.status != "unfinished"})
        best = best_trial(trials, metric)
        said = status_counts(trials)
        standing = f"; best {metric} {best.metric:.4f} (trial {best.number})" if best else ""
        progress.table(*live_table(trials, config))
        share = sum(
            1.0 if trial.status != "unfinished" else trial.step / max(1, trial.steps or 1)
            for trial in trials
        )
        detail = f"{len(over)}/{total} trials{f': {said}' if said else ''}{standing}"
        progress.update(share, total, detail, at_once=len(over) > before)

    def follow() -> None:
        while not stop.wait(2.0):
            show()

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        progress.table([], [])


def live_table(trials: Sequence[Trial], config: "RunConfig") -> tuple[list[str], list[list[str]]]:
    """Head and rows for the terminal, in short: those that run, then the best ones."""
    metric, keys = config.sweep.metric, list(config.sweep.parameters)
    head = ["trial", *keys, "", "step", metric, "σ init", "exp", "agg"]
    rows = []
    sign = 1 if metric == "loss" else -1
    shown = sorted(
        trials,
        key=lambda t: (
            t.status != "unfinished",
            t.metric is None,
            sign * (t.metric or 0.0),
            t.number,
        ),
    )[:LIVE_ROWS]
    for trial, row in zip(shown, table_rows(shown, metric), strict=True):
        status = "running" if trial.status == "unfinished" else trial.status
        rows.append(
            [
                str(trial.number),
                *(short(trial.point[key]) for key in keys),
                status,
                f"{trial.step}/{trial.steps or '–'}",
                short(row[metric]),
                *(short(sigma) for sigma in trial.sigma.values()),
            ]
        )
    return head, rows
