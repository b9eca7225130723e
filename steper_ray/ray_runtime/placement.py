"""Settings of engines and workers as Ray resources, for every stage and the server."""

from collections.abc import Mapping
from typing import Any

from steper_ray.engines.settings import EngineConfig
from steper_ray.training.settings import TrainConfig

Resources = Mapping[str, float]
"""Amounts of `CPU` and `GPU`."""


def engine_actor_resources(config: EngineConfig, *, endpoint: bool = False) -> Resources:
    """Resources of an actor with an engine inside, as build, evaluation and sweep run it.

    endpoint: whether the model is asked behind an endpoint, which takes no GPU of the cluster
    """
    return {"CPU": float(config.cpus), "GPU": 0.0 if endpoint else float(config.gpus)}


def training_worker_resources(config: TrainConfig) -> Resources:
    """Resources of one worker of a training."""
    return {"CPU": float(config.cpus_per_worker), "GPU": float(config.use_gpu)}


def engine_bundles(config: EngineConfig) -> list[dict[str, float]]:
    """Placement-group bundles of a served engine, one for each of its workers; the first has the CPU cores.

    Each GPU has a bundle of its own, so that the GPUs of an engine may be on several nodes.
    """
    if not config.gpus:
        return [{"CPU": config.cpus}]
    shares = [1.0] * int(config.gpus) or [config.gpus]
    return [
        {"GPU": share, **({} if position else {"CPU": config.cpus})}
        for position, share in enumerate(shares)
    ]


def engine_replica_options(config: EngineConfig) -> dict[str, Any]:
    """Ray Serve's options for the replica of an engine: the replica itself is in the first bundle."""
    return {
        "placement_group_bundles": engine_bundles(config),
        "ray_actor_options": {"num_cpus": config.cpus},
    }
