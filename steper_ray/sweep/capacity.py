"""Capacity of a cluster for a sweep: the number of trials that fit at a time.

A trial is a process that only waits (no CPU of its own) and its workers, which start together or not at all
(a placement group), so no trial holds a part of its resources while it waits for the rest. With the metrics
`em` and `f1`, and with `train.best_by: em`, engines answer questions after the workers have ended. An
engine is held until all questions are answered, and Ray Data reads and writes beside it in tasks of one
CPU. So that trials cannot wait for each other for ever, each is counted with a CPU for these tasks: however
many trials hold engines, that many CPUs are left, on which at least one of them goes on. Workers wait for
engines, never the other way round: a training ends by itself.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steper_ray.errors import InputError
from steper_ray.ray_runtime.placement import (
    Resources,
    engine_actor_resources,
    training_worker_resources,
)

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def trial_bundles(config: "RunConfig") -> list[list[Resources]]:
    """Resources of each process of a trial, phase after phase (training, then answering)."""
    train, engine = config.train, config.engine
    phases: list[list[Resources]] = [[training_worker_resources(train)] * train.max_workers]
    if config.sweep.metric != "loss" or train.best_by == "em":
        engines = [engine_actor_resources(engine)] * engine.replicas
        phases.append([*engines, {"CPU": 1.0, "GPU": 0.0}])
    return phases


def trials_at_a_time(phases: Sequence[Sequence[Resources]], nodes: Sequence[Resources]) -> int:
    """Number of trials that fit, whatever phase each is in.

    nodes: CPU and GPU of each node
    """
    return min(_groups(phase, nodes) for phase in phases)


def _groups(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> int:
    """Number of whole groups that can be placed one after the other, each bundle on the first node where
    it fits."""
    free = [dict(node) for node in nodes]
    groups = 0
    while True:
        for bundle in bundles:
            node = next((node for node in free if _fits(bundle, node)), None)
            if node is None:
                return groups
            for name, amount in bundle.items():
                node[name] = node.get(name, 0.0) - amount
        groups += 1
        if not any(amount > 0 for bundle in bundles for amount in bundle.values()):
            return 1


def _fits(bundle: Resources, node: Resources) -> bool:
    return all(amount <= node.get(name, 0.0) + 1e-9 for name, amount in bundle.items())


def check_capacity(config: "RunConfig", nodes: Sequence[Resources]) -> int:
    """Number of trials to run at a time.

    Raises InputError, saying what would fit, if the cluster has no room for one trial.
    """
    for number, phase in enumerate(trial_bundles(config)):
        if trials_at_a_time([phase], nodes) == 0:
            train = config.train
            has = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
            needs = {name: sum(bundle[name] for bundle in phase) for name in ("CPU", "GPU")}
            shortage = f"a trial takes {_amounts(needs)}, the cluster has {_amounts(has)}"
            if number:
                raise InputError(
                    f"sweep: to answer questions {shortage}; lower engine.replicas or engine.cpus, or take "
                    "sweep.metric: loss and train.best_by: loss"
                )
            fitting = _groups(phase[:1], nodes)
            fits = (
                f"train.workers: {fitting} would fit"
                if fitting
                else f"no node has room for a worker of {_amounts(phase[0])}; lower train.cpus_per_worker"
                + (" or leave train.use_gpu out" if train.use_gpu else "")
            )
            raise InputError(f"sweep: {shortage}; {fits}")
    room = trials_at_a_time(trial_bundles(config), nodes)
    return min(room, config.sweep.concurrent or room)


def _amounts(resources: Resources) -> str:
    text = f"{resources['CPU']:g} CPUs"
    return f"{text} and {resources['GPU']:g} GPUs" if resources["GPU"] else text
