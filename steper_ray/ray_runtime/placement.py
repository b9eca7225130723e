"""Settings of engines and workers as Ray resources, for every stage and the server.

Also gives back the placement groups of actors that died.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from steper_ray.engines.settings import EngineConfig
from steper_ray.ray_runtime.room import TASK, Bundle, Resources
from steper_ray.training.settings import TrainConfig

ACCELERATOR_SHARE: Final = 0.001
"""What Ray reserves of a node's kind of GPU, which only says that the node has it."""


# Engines ----------------------------------------------------------------------------------------------


def engine_bundles(config: EngineConfig, *, endpoint: bool = False) -> list[Bundle]:
    """What an engine takes: one bundle, or where its layers are divided (pipeline) one for each GPU.

    Where they are not, its GPUs talk at every layer and lie on one node. The first bundle has the cores.

    endpoint: whether the model is asked behind an endpoint, which takes no GPU of the cluster
    """
    if endpoint:
        return [Bundle({"CPU": config.cpus})]
    first = {"CPU": config.cpus, **config.resources}
    if not spans_nodes(config):
        return [Bundle({**first, **_gpus(config, config.gpus)}, config.node_labels)]
    return [
        Bundle({**(first if number == 0 else {}), **_gpus(config, 1.0)}, config.node_labels)
        for number in range(int(config.gpus))
    ]


def _gpus(config: EngineConfig | TrainConfig, number: float) -> Resources:
    """Some GPUs, of the kind that is asked for."""
    if not number:
        return {}
    kind = config.accelerator_type
    return {"GPU": number} | ({f"accelerator_type:{kind}": ACCELERATOR_SHARE} if kind else {})


def spans_nodes(config: EngineConfig) -> bool:
    """Whether an engine's GPUs may be on several nodes."""
    return config.pipeline_size > 1 and config.gpus > 1


@contextmanager
def engine_actors(config: EngineConfig, *, endpoint: bool = False) -> Iterator[dict[str, Any]]:
    """Ray Data's options for actors with a whole engine inside, as build, evaluation and sweep run them.

    Actors whose GPUs may be on several nodes get a placement group each, which goes with the block.
    """
    if endpoint or not spans_nodes(config):
        yield actor_options(engine_bundles(config, endpoint=endpoint)[0])
        return
    from ray.util import remove_placement_group

    groups: list[Any] = []
    try:
        yield {"ray_remote_args_fn": partial(_in_new_group, config, groups)}
    finally:
        for group in groups:
            remove_placement_group(group)


def actor_options(bundle: Bundle) -> dict[str, Any]:
    """Ray's options of an actor with these resources."""
    resources = dict(bundle.resources)
    options: dict[str, Any] = {
        "num_cpus": resources.pop("CPU", 0.0),
        "num_gpus": resources.pop("GPU", 0.0),
        "resources": resources,
    }
    if bundle.labels:
        options["label_selector"] = dict(bundle.labels)
    return options


def _in_new_group(config: EngineConfig, groups: list[Any]) -> dict[str, Any]:
    """Options of one actor in the first bundle of a new placement group.

    What it starts, vLLM's workers, is in the same group.

    groups: gets the group
    """
    from ray.util import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundles = engine_bundles(config)
    labels = [dict(bundle.labels) for bundle in bundles] if config.node_labels else None
    group = placement_group(
        [dict(bundle.resources) for bundle in bundles], bundle_label_selector=labels
    )
    groups.append(group)
    strategy = PlacementGroupSchedulingStrategy(
        group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
    )
    return {"num_cpus": config.cpus, "num_gpus": 0, "scheduling_strategy": strategy}


def served_engine_bundles(config: EngineConfig) -> list[Resources]:
    """Placement-group bundles of a served engine, one for each of its workers; the first has the cores."""
    if not config.gpus:
        return [{"CPU": config.cpus, **config.resources}]
    shares = [1.0] * int(config.gpus) or [config.gpus]
    return [
        {**_gpus(config, share), **({} if number else {"CPU": config.cpus, **config.resources})}
        for number, share in enumerate(shares)
    ]


def served_engine_strategy(config: EngineConfig) -> str:
    """Where a served engine's bundles lie: on one node, unless its layers are divided (pipeline)."""
    return "PACK" if spans_nodes(config) else "STRICT_PACK"


def engine_replica_options(config: EngineConfig) -> dict[str, Any]:
    """Ray Serve's options for the replica of an engine: the replica itself is in the first bundle."""
    bundles = served_engine_bundles(config)
    options: dict[str, Any] = {
        "placement_group_bundles": bundles,
        "placement_group_strategy": served_engine_strategy(config),
        "ray_actor_options": {"num_cpus": config.cpus},
    }
    if config.node_labels:
        options["placement_group_bundle_label_selector"] = [
            dict(config.node_labels) for _ in bundles
        ]
    return options


def asking_bundles(config: EngineConfig, *, endpoint: bool = False) -> list[Bundle]:
    """What a stage that asks models takes at the same time: its engines, and a task of Ray Data.

    An engine is held until all questions are answered, and Ray Data reads and writes beside it.
    """
    engines = engine_bundles(config, endpoint=endpoint) * config.min_replicas
    return [*engines, Bundle(TASK)]


# Workers ----------------------------------------------------------------------------------------------


def worker_bundle(config: TrainConfig) -> Bundle:
    """What one worker of a training takes."""
    cores = {"CPU": float(config.cpus_per_worker), **config.resources_per_worker}
    return Bundle({**cores, **_gpus(config, float(config.use_gpu))}, config.node_labels)


# Placement groups -------------------------------------------------------------------------------------


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
