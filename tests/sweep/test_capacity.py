"""How many trials run at a time, and clusters without room for one."""

from typing import Any

import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.errors import InputError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.sweep.capacity import check_capacity, trial_bundles


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
