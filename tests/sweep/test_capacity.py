"""How many trials run at a time, and clusters without room for one."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.errors import InputError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.sweep.capacity import check_capacity, trial_bundles

BEST_BY_EM = ["train.validation_chains=1", "train.best_by=em"]


def config(*overrides: str) -> RunConfig:
    return load_config(TOY_RUN_FILE, ["train.workers=1", "sweep.scheduler=none", *overrides])


def node(cpus: float, gpus: float = 0.0) -> dict[str, Any]:
    return {"CPU": cpus, "GPU": gpus}


@pytest.mark.parametrize(
    ("overrides", "nodes", "trials"),
    [
        ([], [node(2)], 2),
        (["train.workers=2"], [node(2)], 1),
        (["train.workers=2"], [node(3), node(3)], 3),
        (["train.cpus_per_worker=2"], [node(3), node(3)], 2),  # a worker is on one node
        (["train.workers=3", "train.cpus_per_worker=2"], [node(3), node(3), node(3)], 1),
        (["train.use_gpu=true", "train.workers=4"], [node(64, 8)], 2),
        (["train.use_gpu=true", "train.workers=4"], [node(64, 4), node(64, 6)], 2),
        (["train.use_gpu=true"], [node(4, 8)], 4),  # CPUs are short
        (["sweep.concurrent=1"], [node(8)], 1),
        (["sweep.concurrent=9"], [node(4)], 4),
        (["sweep.metric=em"], [node(4)], 2),  # an engine and what reads beside it
        (BEST_BY_EM, [node(2)], 1),  # two engines would leave no CPU to read with
        (BEST_BY_EM, [node(3)], 1),
        (BEST_BY_EM, [node(4)], 2),
    ],
)
def test_trials_at_a_time(overrides: list[str], nodes: list[dict[str, Any]], trials: int) -> None:
    assert check_capacity(config(*overrides), nodes) == trials


@pytest.mark.parametrize(
    ("overrides", "nodes", "said"),
    [
        (
            ["train.workers=4"],
            [node(2)],
            "sweep: a trial takes 4 CPUs, the cluster has 2 CPUs; train.workers: 2 would fit",
        ),
        (
            ["train.use_gpu=true", "train.workers=8"],
            [node(32, 4)],
            "8 CPUs and 8 GPUs, the cluster has 32 CPUs and 4 GPUs; train.workers: 4 would fit",
        ),
        (
            ["train.cpus_per_worker=4"],
            [node(2), node(2)],
            "no node has room for a worker of 4 CPUs; lower train.cpus_per_worker",
        ),
        (["train.use_gpu=true"], [node(8)], "or leave train.use_gpu out"),
        (
            ["sweep.metric=em", "engine.cpus=2"],
            [node(2)],
            "to answer questions a trial takes 3 CPU",
        ),
    ],
)
def test_no_room_for_one_trial_is_refused(
    overrides: list[str], nodes: list[dict[str, Any]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_capacity(config(*overrides), nodes)


def test_a_trial_takes_all_its_workers_and_then_an_engine() -> None:
    worker, engine = {"CPU": 1.0, "GPU": 0.0}, {"CPU": 1.0, "GPU": 0.0}
    assert trial_bundles(config("train.workers=2")) == [[worker, worker]]
    assert trial_bundles(config("sweep.metric=em"))[1] == [engine, {"CPU": 1.0, "GPU": 0.0}]


State = tuple[Any, ...]
"""Of each trial: `waits`, (`trains`, its workers' nodes), (`answers`, its engines' nodes), or `done`."""


def moves(
    trials: State, workers: int, engines: int, engine_cpus: int, nodes: list[int]
) -> Iterator[State]:
    """What can happen next: trials take what is free on any node, and hold it as Ray lets them.

    Workers, of one CPU, start all at once. Engines start one by one and are held until the trial is done:
    for that it needs one of them, and a CPU for a task that reads or writes.
    """
    free = list(nodes)
    for trial in trials:
        for held in trial[1] if isinstance(trial, tuple) else ():
            free[held] -= 1 if trial[0] == "trains" else engine_cpus
    for number, trial in enumerate(trials):

        def then(now: Any, number: int = number) -> State:
            return (*trials[:number], now, *trials[number + 1 :])

        if trial == "waits":
            for places in product(range(len(nodes)), repeat=workers):
                if all(places.count(place) <= free[place] for place in places):
                    yield then(("trains", tuple(sorted(places))))
        elif trial[0] == "trains":
            yield then(("answers", ()))
        elif trial[0] == "answers":
            if len(trial[1]) < engines:
                for place, room in enumerate(free):
                    if room >= engine_cpus:
                        yield then(("answers", tuple(sorted((*trial[1], place)))))
            if trial[1] and max(free) >= 1:
                yield then("done")


def stuck(trials: int, *setting: Any) -> State | None:
    """A state that can be reached and in which nothing can happen any more; None if there is none."""
    begin: State = ("waits",) * trials
    seen, queue = {begin}, [begin]
    while queue:
        state = queue.pop()
        following = list(moves(state, *setting))
        if not following and any(trial != "done" for trial in state):
            return state
        new = set(following) - seen
        seen |= new
        queue += new
    return None


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(
    ("engines", "engine_cpus", "nodes"),
    [
        (1, 1, [2]),
        (1, 1, [4]),
        (1, 2, [3, 3]),
        (1, 2, [4, 2]),
        (2, 1, [3, 3]),
        (2, 1, [2, 2, 2]),
        (2, 2, [6, 4]),
    ],
)
def test_trials_that_answer_cannot_wait_for_each_other_for_ever(
    workers: int, engines: int, engine_cpus: int, nodes: list[int]
) -> None:
    """Every order of events is tried. As many trials as have room to train would end badly."""
    settings = [
        f"train.workers={workers}",
        f"engine.replicas={engines}",
        f"engine.cpus={engine_cpus}",
    ]
    there = [node(cpus) for cpus in nodes]
    trials = check_capacity(config("sweep.metric=em", *settings), there)
    setting = (workers, engines, engine_cpus, nodes)
    assert stuck(trials, *setting) is None
    if (workers, engines, engine_cpus, nodes) == (1, 1, 1, [2]):
        assert check_capacity(config(*settings), there) == 2
        assert stuck(2, *setting) == (("answers", (0,)), ("answers", (0,)))
