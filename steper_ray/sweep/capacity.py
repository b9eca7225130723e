"""Capacity of a cluster for a sweep: the number of trials that fit at a time.

A trial is a process that only waits (no CPU of its own) and its workers, which start together or not at all
(a placement group), so no trial holds a part of its resources while it waits for the rest. With the metrics
`em` and `f1`, and with `train.best_by: em`, engines answer questions after the workers have ended. An
engine is held until all questions are answered, and Ray Data reads and writes beside it in tasks of one
CPU. So that trials cannot wait for each other for ever, each is counted with a CPU for these tasks: however
many trials hold engines, that many CPUs are left, on which at least one of them goes on. Workers wait for
engines, never the other way round: a training ends by itself.
"""

from itertools import repeat
from typing import TYPE_CHECKING

from steper_ray.evaluation.settings import STUDENT
from steper_ray.ray_runtime.placement import asking_bundles, worker_bundle
from steper_ray.ray_runtime.room import (
    Bundle,
    Cluster,
    amounts,
    refuse_what_never_fits,
    whole_groups,
)

if TYPE_CHECKING:
    from steper_ray.engines.settings import EngineConfig
    from steper_ray.run.config import RunConfig


def asking_engine(config: "RunConfig") -> "EngineConfig":
    """The engines that ask the students of a sweep's trials."""
    return config.sweep.engine or config.eval.engine_of(STUDENT) or config.engine


def trial_bundles(config: "RunConfig", workers: int) -> list[list[Bundle]]:
    """What a trial takes at the same time, phase after phase (training, then answering).

    workers: that it trains with
    """
    phases = [[worker_bundle(config.train)] * workers]
    if config.sweep.metric != "loss" or config.train.best_by == "em":
        phases.append(asking_bundles(asking_engine(config)))
    return phases


def check_capacity(config: "RunConfig", cluster: Cluster, trials: int) -> int:
    """Number of trials to run at a time, on the nodes and those that the autoscaler may bring.

    trials: number of all trials, of which no more need room

    Raises InputError, saying what would fit, if the cluster can never have room for one trial.
    """
    train, section = config.train, config.sweep
    training, *answering = trial_bundles(config, train.min_workers)
    most = max(trials, 1) * max(len(phase) for phase in (training, *answering))
    nodes = cluster.all_nodes(most)
    fitting = whole_groups(repeat(training[:1], train.min_workers), nodes)
    gpus = " or leave train.use_gpu out" if train.use_gpu else ""
    advice = (
        f"train.workers: {fitting} would fit" if fitting else f"lower train.cpus_per_worker{gpus}"
    )
    refuse_what_never_fits("sweep", training, advice, cluster)
    for phase in answering:
        refuse_what_never_fits(
            "sweep: to answer questions",
            phase,
            "lower engine.replicas or engine.cpus (for the sweep alone: sweep.engine), or take "
            "sweep.metric: loss and train.best_by: loss",
            cluster,
        )
    at_most = section.concurrent or trials
    if cluster.unknown and section.concurrent and not answering:
        return section.concurrent
    phases = trial_bundles(config, train.max_workers)
    room = min(_trials_with_room(phase, cluster, at_most) for phase in phases)
    return max(1, room)


def _trials_with_room(phase: list[Bundle], cluster: Cluster, most: int) -> int:
    """Number of trials that fit in one phase, at most so many; one where they take nothing."""
    if not any(amounts(bundle.resources) for bundle in phase):
        return 1
    return whole_groups(repeat(phase, most), cluster.all_nodes(most * len(phase)))
