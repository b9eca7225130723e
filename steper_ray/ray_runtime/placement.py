"""Settings of engines as Ray resources."""

from collections.abc import Mapping
from typing import Any

from steper_ray.engines.settings import EngineConfig


def engine_bundles(config: EngineConfig) -> list[dict[str, float]]:
    """Placement-group bundles of an engine, one for each of its workers; the first has the CPU cores too.

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


Resources = Mapping[str, float]
