"""How many trials a cluster has room for.

A trial is a process that only waits (no CPU of its own) and the workers that it starts, all of them at
once or none: a placement group. So trials never hold a part of what they need while they wait for the
rest. With `em` and `f1` an engine answers the questions when the workers are gone; Ray Data reads and
writes beside it, which takes a CPU more.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from steper_ray.errors import InputError
from steper_ray.ray_runtime.placement import Resources

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def trial_bundles(config: "RunConfig") -> list[list[Resources]]:
    """What a trial takes, phase after phase: the processes of each."""
    train, engine = config.train, config.engine
    worker = {"CPU": float(train.cpus_per_worker), "GPU": float(train.use_gpu)}
    phases: list[list[Resources]] = [[worker] * train.workers]
    if config.sweep.metric != "loss":
        engines = [{"CPU": float(engine.cpus), "GPU": float(engine.gpus)}] * engine.actors
        phases.append([*engines, {"CPU": 1.0, "GPU": 0.0}])
    return phases


def trials_at_a_time(phases: Sequence[Sequence[Resources]], nodes: Sequence[Resources]) -> int:
    """How many trials fit, whatever phase each is in.

    nodes: CPU and GPU of each
    """
    return min(_groups(phase, nodes) for phase in phases)


def _groups(bundles: Sequence[Resources], nodes: Sequence[Resources]) -> int:
    """How many whole groups can be placed one after the other, each bundle where it first fits."""
    left = [dict(node) for node in nodes]
    groups = 0
    while True:
        for bundle in bundles:
            place = next((node for node in left if _fits(bundle, node)), None)
            if place is None:
                return groups
            for name, amount in bundle.items():
                place[name] = place.get(name, 0.0) - amount
        groups += 1
        if not any(amount > 0 for bundle in bundles for amount in bundle.values()):
            return 1


def _fits(bundle: Resources, node: Resources) -> bool:
    return all(amount <= node.get(name, 0.0) + 1e-9 for name, amount in bundle.items())


def check_capacity(config: "RunConfig", nodes: Sequence[Resources]) -> int:
    """How many trials run at a time.

    Raises InputError if the cluster has no room for one, saying what would fit.
    """
    for number, phase in enumerate(trial_bundles(config)):
        if trials_at_a_time([phase], nodes) == 0:
            train = config.train
            has = {name: sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU")}
            needs = {name: sum(bundle[name] for bundle in phase) for name in ("CPU", "GPU")}
            said = f"a trial takes {_said(needs)}, the cluster has {_said(has)}"
            if number:
                raise InputError(
                    f"sweep: to answer questions {said}; lower engine.actors or engine.cpus, or take "
                    "sweep.metric: loss"
                )
            fitting = _groups(phase[:1], nodes)
            fits = (
                f"train.workers: {fitting} would fit"
                if fitting
                else f"no node has room for a worker of {_said(phase[0])}; lower train.cpus_per_worker"
                + (" or leave train.use_gpu out" if train.use_gpu else "")
            )
            raise InputError(f"sweep: {said}; {fits}")
    room = trials_at_a_time(trial_bundles(config), nodes)
    return min(room, config.sweep.concurrent or room)


def _said(resources: Resources) -> str:
    said = f"{resources['CPU']:g} CPUs"
    return f"{said} and {resources['GPU']:g} GPUs" if resources["GPU"] else said
