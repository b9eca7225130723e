"""How many trials run at a time, and clusters without room for one."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.errors import InputError
from steper_ray.ray_runtime.room import Bundle, Cluster, Node
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.sweep.capacity import check_capacity, trial_bundles

BEST_BY_EM = ["train.validation_chains=1", "train.best_by=em"]


def config(*overrides: str) -> RunConfig:
    return load_config(TOY_RUN_FILE, ["train.workers=1", "sweep.scheduler=none", *overrides])


def node(cpus: float, gpus: float = 0.0) -> Node:
    return Node({"CPU": cpus, "GPU": gpus})


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
def test_trials_at_a_time(overrides: list[str], nodes: list[Node], trials: int) -> None:
    assert check_capacity(config(*overrides), Cluster(tuple(nodes)), 50) == trials


@pytest.mark.parametrize(
    ("overrides", "nodes", "said"),
    [
        (
            ["train.workers=4"],
            [node(2)],
            r"sweep: needs 4 × \(1 CPU\) at .*; the cluster has 2 CPU; train.workers: 2 would fit",
        ),
        (
            ["train.use_gpu=true", "train.workers=8"],
            [node(32, 4)],
            r"8 × \(1 CPU \+ 1 GPU\) at .*; the cluster has 32 CPU \+ 4 GPU; train.workers: 4 would fit",
        ),
        (
            ["train.cpus_per_worker=4"],
            [node(2), node(2)],
            r"no node has room for 1 × \(4 CPU\); the largest has 2 CPU; lower train.cpus_per_worker",
        ),
        (["train.use_gpu=true"], [node(8)], "or leave train.use_gpu out"),
        (
            ["sweep.metric=em", "engine.cpus=2"],
            [node(2)],
            r"to answer questions: needs 1 × \(2 CPU\) and 1 × \(1 CPU\) at .*; the cluster has 2 CPU",
        ),
    ],
)
def test_no_room_for_one_trial_is_refused(
    overrides: list[str], nodes: list[Node], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_capacity(config(*overrides), Cluster(tuple(nodes)), 8)


def test_a_trial_takes_all_its_workers_and_then_an_engine() -> None:
    one = Bundle({"CPU": 1.0})
    assert trial_bundles(config(), workers=2) == [[one, one]]
    assert trial_bundles(config("sweep.metric=em"), workers=1)[1] == [one, one]


def test_nodes_that_come_later_have_room_for_trials() -> None:
    """A launcher without workers, whose head has no GPU."""
    trials = config("train.use_gpu=true", "train.workers=4", "sweep.concurrent=3")
    gpu = Node({"CPU": 48, "GPU": 4}, name="gpu", count=4)
    head = (node(8),)
    assert check_capacity(trials, Cluster(head, (gpu,)), 50) == 3
    assert check_capacity(trials, Cluster(head, unknown=True), 50) == 3
    with pytest.raises(InputError, match=r"the autoscaler may bring 4 × gpu \(48 CPU \+ 4 GPU\)"):
        check_capacity(config("train.use_gpu=true", "train.workers=99"), Cluster(head, (gpu,)), 50)


def test_elastic_workers_need_room_for_the_fewest() -> None:
    trials = config("train.workers=[2,8]", "train.checkpoint_every_minutes=1")
    assert check_capacity(trials, Cluster((node(4),)), 50) == 1
    assert check_capacity(trials, Cluster((node(17),)), 50) == 2


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
    there = Cluster(tuple(node(cpus) for cpus in nodes))
    trials = check_capacity(config("sweep.metric=em", *settings), there, 50)
    setting = (workers, engines, engine_cpus, nodes)
    assert stuck(trials, *setting) is None
    if (workers, engines, engine_cpus, nodes) == (1, 1, 1, [2]):
        assert check_capacity(config(*settings), there, 50) == 2
        assert stuck(2, *setting) == (("answers", (0,)), ("answers", (0,)))
