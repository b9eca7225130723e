"""The trials of a sweep on Ray Tune: proposals, early stopping, going on."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.ray_runtime.placement import remove_orphaned_placement_groups
from steper_ray.sweep.earlier import numbers_to_run, proposals_again, tell_asha, tell_searcher
from steper_ray.sweep.space import Point, chosen, optuna_space, resolved
from steper_ray.sweep.trial import TrialTask, run_trial
from steper_ray.sweep.trial_files import ERROR_FILE, Trial, read_trials

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


LAST_DEATHS_S: Final = 10.0
"""The trials that were stopped last get so long to die before the stage ends."""

NUMBER: Final = "trial"
"""Key of a Tune trial's settings: the number of its point, in a grid and a random search."""

LAST_RUNG: Final = 10**6
"""ASHA ends trials at its last rung, so that rung lies beyond all validations."""


def run_trials(
    task: TrialTask, state: Path, all_points: Sequence[Point] | None, at_a_time: int
) -> None:
    """Run the trials on Tune; trials that have ended are not run again.

    state:      folder for Tune's own state, from which nothing is read: trials have theirs in their folders
    all_points: of a grid or a random search; None lets Optuna propose points as trials end
    """
    os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C ends the command as any other
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints a box whatever `verbose` says
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    from ray import tune

    from steper_ray.ray_runtime.logs import quieten

    config, section = task.config, task.config.sweep
    quieten()
    if section.retry_failed:
        for file in task.folder.glob(f"*/{ERROR_FILE}"):
            file.unlink()
    before = read_trials(task.folder, section.metric)
    numbers = numbers_to_run(before, section.trials if all_points is None else len(all_points))
    if not numbers:
        return

    def trial(proposal: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_name()
        assert name is not None
        number = int(name)
        if all_points:
            run_trial(task, number, all_points[number - 1])
        else:
            run_trial(task, number, resolved(config.train, chosen(section, proposal)))

    # Tune requires at least one resource; a process that only waits must not take a CPU from the workers.
    trainable = tune.with_resources(trial, {"CPU": 0, "memory": 1})
    shutil.rmtree(state, ignore_errors=True)
    search = None if all_points else _optuna(config, before, numbers)
    _tuner(task, trainable, state, numbers, search, _scheduler(config, before), at_a_time).fit()
    given_up = time.monotonic() + LAST_DEATHS_S
    while remove_orphaned_placement_groups() and time.monotonic() < given_up:
        time.sleep(0.2)


def _tuner(
    task: TrialTask,
    trainable: Any,
    state: Path,
    numbers: Sequence[int],
    search: Any,
    scheduler: Any,
    at_a_time: int,
) -> Any:
    """numbers: of the trials; without a searcher each is a point of its own"""
    from ray import tune

    from steper_ray.sweep.tune_callbacks import EndTrials

    def name(trial: Any) -> str:
        """The number of a Tune trial, which Tune counts from 1 where Optuna proposes."""
        number = trial.config.get(NUMBER)
        if number is None:
            number = numbers[int(trial.experiment_tag.split("_")[0]) - 1]
        return f"{number:04d}"

    return tune.Tuner(
        trainable,
        param_space={} if search else {NUMBER: tune.grid_search(list(numbers))},
        tune_config=tune.TuneConfig(
            num_samples=len(numbers) if search else 1,
            max_concurrent_trials=at_a_time,
            search_alg=search,
            scheduler=scheduler,
            trial_name_creator=name,
            trial_dirname_creator=name,
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=str(state.parent.absolute()),
            failure_config=tune.FailureConfig(max_failures=task.config.sweep.max_restarts),
            callbacks=[EndTrials(task.folder)],
            verbose=0,
        ),
    )


def _optuna(config: "RunConfig", before: Sequence[Trial], numbers: Sequence[int]) -> Any:
    """Optuna's TPE, told of the trials that have ended; a third of all are drawn at random first.

    numbers: of the trials to run, begun ones first
    """
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    section = config.sweep
    first = min(10, max(2, section.trials // 3))
    # Another seed than that of the trials before, or the same random points would be drawn again.
    seed = config.run.seed + len(before)
    search = OptunaSearch(
        optuna_space(section, config.train),
        metric="metric",
        mode="min" if section.metric == "loss" else "max",
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=first),
        points_to_evaluate=proposals_again(config, before, numbers),
    )
    tell_searcher(search, config, before)
    return search


def _scheduler(config: "RunConfig", before: Sequence[Trial]) -> Any:
    """ASHA, told of the trials that have ended; None where no trial is stopped."""
    if config.sweep.scheduler == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        time_attr="budget",
        metric="metric",
        mode="min",
        grace_period=config.sweep.asha_grace,
        reduction_factor=config.sweep.asha_factor,
        max_t=LAST_RUNG,
    )
    tell_asha(scheduler, config, before)
    return scheduler
