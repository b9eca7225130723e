"""The trials of a sweep on Ray Tune: proposals, early stopping, resuming."""

import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.ray_runtime.placement import remove_orphaned_placement_groups
from steper_ray.sweep.space import Point, chosen, optuna_space, resolved
from steper_ray.sweep.trial import TrialTask, run_trial
from steper_ray.sweep.trial_files import ERROR_FILE

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


LAST_DEATHS_S: Final = 10.0
"""The trials that were stopped last get so long to die before the stage ends."""

LAST_RUNG: Final = 10**6
"""ASHA ends trials at its last rung, so that rung lies beyond all validations."""


def run_trials(
    task: TrialTask, state: Path, all_points: Sequence[Point] | None, at_a_time: int
) -> None:
    """Run the trials on Tune; trials that have ended are not run again.

    state:      folder of Tune's own state, from which a stopped sweep resumes
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

    def trial(proposal: dict[str, Any]) -> None:
        name = tune.get_context().get_trial_name()
        assert name is not None
        if all_points:
            point = all_points[proposal["point"]]
        else:
            point = resolved(config.train, chosen(section, proposal))
        run_trial(task, int(name), point)

    # Tune requires at least one resource; a process that only waits must not take a CPU from the workers.
    trainable = tune.with_resources(trial, {"CPU": 0, "memory": 1})
    if tune.Tuner.can_restore(str(state)) and any(state.glob("experiment_state*.json")):
        tuner = tune.Tuner.restore(str(state), trainable, resume_errored=section.retry_failed)
    else:
        shutil.rmtree(state, ignore_errors=True)
        tuner = _new_tuner(task, trainable, state, all_points, at_a_time)
    tuner.fit()
    given_up = time.monotonic() + LAST_DEATHS_S
    while remove_orphaned_placement_groups() and time.monotonic() < given_up:
        time.sleep(0.2)


def _new_tuner(
    task: TrialTask,
    trainable: Any,
    state: Path,
    all_points: Sequence[Point] | None,
    at_a_time: int,
) -> Any:
    from ray import tune

    from steper_ray.sweep.tune_callbacks import EndTrials

    config, section = task.config, task.config.sweep
    mode = "min" if section.metric == "loss" else "max"
    return tune.Tuner(
        trainable,
        param_space=(
            {"point": tune.grid_search(list(range(len(all_points))))} if all_points else {}
        ),
        tune_config=tune.TuneConfig(
            metric="metric",
            mode=mode,
            num_samples=1 if all_points else section.trials,
            max_concurrent_trials=at_a_time,
            search_alg=None if all_points else _optuna(config, mode),
            scheduler=_scheduler(config),
            trial_name_creator=_name,
            trial_dirname_creator=_name,
        ),
        run_config=tune.RunConfig(
            name=state.name,
            storage_path=str(state.parent.absolute()),
            failure_config=tune.FailureConfig(max_failures=section.max_restarts),
            callbacks=[EndTrials(task.folder)],
            verbose=0,
        ),
    )


def _name(trial: Any) -> str:
    """The number of a Tune trial, counted from 1."""
    index = trial.config.get("point")
    number = int(trial.experiment_tag.split("_")[0]) if index is None else index + 1
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
        max_t=LAST_RUNG,
    )
