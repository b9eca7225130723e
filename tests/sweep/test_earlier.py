"""What Optuna and ASHA are told of the trials of a sweep that goes on."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.sweep.earlier import numbers_to_run, proposals_again, told
from steper_ray.sweep.space import applied, budget, chosen, proposal_of, resolved
from steper_ray.sweep.trial_files import WORST, Status, Trial, Validation
from steper_ray.sweep.tuner import _optuna, _scheduler

PARAMETERS = "{lr: {log: [1.0e-6, 1.0]}, sigma_init: {choice: [1, [1, 2, 3]]}}"


def config(*overrides: str) -> RunConfig:
    return load_config(TOY_RUN_FILE, [f"sweep.parameters={PARAMETERS}", *overrides])


def trial(
    number: int,
    status: Status = "finished",
    metric: float | None = 1.0,
    *,
    lr: float = 1e-3,
    losses: tuple[float, ...] = (),
) -> Trial:
    """A trial as `read_trials` gives it."""
    return Trial(
        number=number,
        point={"lr": lr, "sigma_init": [1.0, 2.0, 3.0]},
        status=status,
        metric=metric,
        loss={},
        sigma={},
        step=1,
        steps=4,
        seconds=1.0,
        error=None,
        folder=Path(),
        validations=[Validation(step, loss, {}) for step, loss in enumerate(losses, 1)],
        curves={},
    )


def test_what_has_not_ended_is_run_up_to_the_number_of_trials() -> None:
    begun = [trial(1), trial(2, "stopped"), trial(4, "unfinished"), trial(5, "diverged")]
    assert numbers_to_run(begun, 8) == [4, 3, 6, 7, 8]  # begun ones first
    assert numbers_to_run(begun, 5) == [4, 3]
    assert numbers_to_run(begun, 2) == []


def test_a_proposal_is_found_again_from_the_point_of_its_trial() -> None:
    run = config()
    for proposal in ({"lr": 1e-3, "sigma_init": 0}, {"lr": 0.5, "sigma_init": 1}):
        point = resolved(run.train, chosen(run.sweep, proposal))
        assert proposal_of(run.sweep, run.train, point) == proposal
    overlapping = "{sigma_init: {choice: [1, 2]}, sigma_init.exp: {choice: ['3', 4]}}"
    run = config(f"sweep.parameters={overlapping}")
    proposal = {"sigma_init": 1, "sigma_init.exp": 0}
    point = resolved(run.train, chosen(run.sweep, proposal))
    assert proposal_of(run.sweep, run.train, point) == proposal


def test_optuna_is_told_how_trials_ended_and_proposes_unfinished_ones_again() -> None:
    pytest.importorskip("optuna")
    run = config("sweep.search=optuna", "sweep.trials=9")
    before = [
        trial(1, metric=0.5, lr=1e-4),
        trial(2, "stopped", 0.75, lr=1e-2),
        trial(3, "diverged", 0.25, lr=1.0),  # what it was before it diverged does not count
        trial(4, "failed", None),
        trial(5, "unfinished", None, lr=0.125),
    ]
    numbers = numbers_to_run(before, 9)
    assert numbers == [5, 6, 7, 8, 9]
    search = _optuna(run, before, numbers)
    ended = [one for one in search._ot_study.trials if one.state.is_finished()]
    assert [(one.params["lr"], one.value) for one in ended] == [
        (1e-4, 0.5),
        (1e-2, 0.75),
        (1.0, WORST["loss"]),
    ]
    assert proposals_again(run, before, numbers) == [{"lr": 0.125, "sigma_init": 1}]
    assert search.suggest("first") == {"lr": 0.125, "sigma_init": 1}
    assert search.suggest("second")["lr"] != 0.125
    assert told(before[2], "em") == -1.0


@pytest.mark.parametrize(("status", "lowest", "highest"), [("diverged", 0, 12), ("failed", 15, 40)])
def test_optuna_avoids_where_trials_diverged(status: Status, lowest: int, highest: int) -> None:
    """Six decades of learning rates of which the upper three diverge; of 40 proposals how many lie there.

    A failed trial, as Tune reports an error or a metric that is no number, teaches nothing.
    """
    pytest.importorskip("optuna")
    run = config("sweep.search=optuna", "sweep.trials=60")
    low = [trial(n, metric=1.0 + n / 100, lr=10 ** (-6 + 0.3 * n)) for n in range(1, 10)]
    high = [trial(10 + n, status, None, lr=10 ** (-2.7 + 0.3 * n)) for n in range(9)]
    search = _optuna(run, [*low, *high], range(19, 60))
    proposed = [search.suggest(str(n))["lr"] for n in range(40)]
    assert lowest <= sum(lr > 10**-2.85 for lr in proposed) <= highest


def decision(run: RunConfig, before: list[Trial], seen: float, loss: float) -> str:
    """What ASHA does with a new trial at its first validation."""
    scheduler, new = _scheduler(run, before), SimpleNamespace(trial_id="new")
    scheduler.on_trial_add(None, new)
    said: str = scheduler.on_trial_result(None, new, {"budget": seen, "metric": loss})
    return said


def test_asha_knows_the_rungs_of_trials_that_have_ended() -> None:
    run = config("sweep.scheduler=asha", "sweep.asha_factor=2")
    before = [
        trial(1, losses=(1.0, 0.5)),
        trial(2, "stopped", losses=(4.0,)),
        trial(3, "unfinished", losses=(0.1,)),
    ]
    # rung 1: losses 1 and 4, of which the better half is below 2.5; rung 2: the loss 0.5 alone
    assert decision(run, before, 1, 2.4) == "CONTINUE"
    assert decision(run, before, 1, 2.6) == "STOP"
    assert decision(run, [], 1, 2.6) == "CONTINUE"
    assert decision(run, before, 2, 0.4) == "CONTINUE"
    assert decision(run, before, 2, 0.6) == "STOP"


def test_trials_of_unequal_batches_are_compared_after_the_same_data() -> None:
    sizes = "sweep.parameters={chains_per_batch: {choice: [8, 24, 32]}}"
    run = config(sizes, "train.validate_every_steps=4", "sweep.scheduler=asha")

    def seen(chains_per_batch: int, validations: int, run: RunConfig = run) -> float:
        own = applied(run.train, {"chains_per_batch": chains_per_batch})
        return budget(run.sweep, own, validations)

    # a validation of the largest batches is 4 · 32 = 128 chains, of the smallest 32, of the other 96
    assert [seen(32, n) for n in (1, 3)] == [1, 3]
    assert [seen(8, n) for n in (1, 4, 12)] == [0.25, 1, 3]
    assert [seen(24, n) for n in (1, 2, 4)] == [0.75, 1.5, 3]
    each_epoch = config(sizes, "train.validate_every_steps=0")
    assert [seen(size, 2, each_epoch) for size in (8, 24, 32)] == [2, 2, 2]
    assert budget(config().sweep, run.train, 3) == 3


def test_a_trial_of_small_batches_is_judged_when_it_has_seen_as_much() -> None:
    run = config(
        "sweep.parameters={chains_per_batch: {choice: [8, 32]}}",
        "train.validate_every_steps=4",
        "sweep.scheduler=asha",
    )
    large = [trial(1, losses=(1.0,))]
    large[0].point.clear()
    large[0].point["chains_per_batch"] = 32
    assert decision(run, large, 0.75, 2.0) == "CONTINUE"
    assert decision(run, large, 1.0, 2.0) == "STOP"


def test_a_trial_has_its_lowest_loss_so_far() -> None:
    found: Any = trial(1, losses=(4.0, 1.0, 0.25, 0.5)).best_so_far
    assert found == [4.0, 1.0, 0.25, 0.25]
