"""Settings of engines and workers as Ray resources, for every stage and the server.

Also gives back the placement groups of actors that died.
"""

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


def placement_groups() -> list[Any]:
    """Placement groups of this job, as rows (`PlacementGroupTableData`) of the table that Ray keeps."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import PlacementGroupTableData  # type: ignore[attr-defined]

    job, tables = ray.get_runtime_context().get_job_id(), state._connect_and_get_accessor()
    groups = map(PlacementGroupTableData.FromString, tables.get_placement_group_table())
    return [group for group in groups if group.creator_job_id.hex() == job]


def remove_orphaned_placement_groups() -> bool:
    """Free what dead actors of this job hold through placement groups; whether living ones hold others.

    Ray frees a placement group by itself only when the whole job ends. Ray Train has a cleaner for the
    groups of a controller that died, but it asks Ray's dashboard, and a cluster started for one command has
    none; nor does it know a group whose workers had not started. Here Ray's own table says who is dead.
    """
    from ray._raylet import ActorID, PlacementGroupID
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    held = False
    for group in placement_groups():
        # The table calls the creator of the driver's own groups, which is no actor, dead.
        by_actor = not ActorID(group.creator_actor_id).is_nil()
        if not by_actor or group.state == group.REMOVED:
            continue
        if group.creator_actor_dead:
            remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))
        else:
            held = True
    return held
