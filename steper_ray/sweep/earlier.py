"""What a sweep that goes on tells its searcher and ASHA of the trials that have ended.

Tune could restore its own state, but that knows the number of trials and the upper bound of those at a time
as they were when the sweep began, and nothing of ASHA's rungs.
"""

from collections.abc import Collection, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from steper_ray.sweep.settings import Metric
from steper_ray.sweep.space import applied, budget, proposal_of
from steper_ray.sweep.trial_files import WORST, Trial

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def numbers_to_run(trials: Sequence[Trial], total: int) -> list[int]:
    """Numbers of the trials that have not ended, up to `total`; those that have begun come first."""
    ended = {trial.number for trial in trials if trial.status != "unfinished"}
    begun = {trial.number for trial in trials}
    open_numbers = [number for number in range(1, total + 1) if number not in ended]
    return sorted(open_numbers, key=lambda number: (number not in begun, number))


def told(trial: Trial, metric: Metric) -> float | None:
    """What the searcher is told of an ended trial; None of one that failed, which says nothing."""
    if trial.status == "failed":
        return None
    return WORST[metric] if trial.status == "diverged" else trial.metric


def tell_searcher(search: Any, config: "RunConfig", trials: Sequence[Trial]) -> None:
    """Tell Optuna of the trials that have ended.

    search: an `OptunaSearch`
    """
    for trial in trials:
        value = None if trial.status == "unfinished" else told(trial, config.sweep.metric)
        if value is not None:
            search.add_evaluated_point(proposal_of(config.sweep, config.train, trial.point), value)


def proposals_again(
    config: "RunConfig", trials: Sequence[Trial], numbers: Collection[int]
) -> list[dict[str, Any]]:
    """Optuna's proposals of the trials that have begun and not ended, of these numbers, in order."""
    return [
        proposal_of(config.sweep, config.train, trial.point)
        for trial in trials
        if trial.status == "unfinished" and trial.number in numbers
    ]


def tell_asha(scheduler: Any, config: "RunConfig", trials: Sequence[Trial]) -> None:
    """Tell ASHA of all validations of the trials that have ended.

    scheduler: an `ASHAScheduler` with metric and mode
    """
    for trial in trials:
        if trial.status == "unfinished":  # it will report again
            continue
        as_tune_has_it: Any = SimpleNamespace(trial_id=f"earlier {trial.number}")
        scheduler.on_trial_add(None, as_tune_has_it)
        for number, best in enumerate(trial.best_so_far, 1):
            seen = budget(config.sweep, applied(config.train, trial.point), number)
            scheduler.on_trial_result(None, as_tune_has_it, {"budget": seen, "metric": best})
