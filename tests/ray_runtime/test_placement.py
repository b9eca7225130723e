"""Ray resources of engines and workers; GPUs of a served engine may be on several nodes."""

import time
from typing import Any

import pytest

from steper_ray.engines.settings import EngineConfig
from steper_ray.ray_runtime.placement import (
    asking_bundles,
    engine_actors,
    engine_bundles,
    engine_replica_options,
    remove_orphaned_placement_groups,
    served_engine_bundles,
    worker_bundle,
)
from steper_ray.ray_runtime.room import Bundle
from steper_ray.training.settings import TrainConfig


def engine(gpus: float, **values: Any) -> EngineConfig:
    args = {"tensor_parallel_size": int(gpus)} if gpus > 1 else {}
    return EngineConfig.model_validate({"cpus": 4, "gpus": gpus, "args": args, **values})


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (0, [{"CPU": 4}]),
        (0.5, [{"GPU": 0.5, "CPU": 4}]),
        (1, [{"GPU": 1, "CPU": 4}]),
        (2, [{"GPU": 1, "CPU": 4}, {"GPU": 1}]),
    ],
)
def test_each_gpu_of_a_server_is_a_bundle_and_the_first_has_the_cores(
    gpus: float, expected: list[dict[str, float]]
) -> None:
    assert served_engine_bundles(engine(gpus)) == expected


def test_the_replica_itself_fits_into_the_first_bundle() -> None:
    options = engine_replica_options(engine(2))
    assert options["ray_actor_options"] == {"num_cpus": 4}
    assert options["placement_group_bundles"][0]["CPU"] == 4


def test_gpus_lie_on_one_node_unless_the_layers_are_divided() -> None:
    divided = engine(4, args={"tensor_parallel_size": 2, "pipeline_parallel_size": 2})
    assert engine_replica_options(engine(2))["placement_group_strategy"] == "STRICT_PACK"
    assert engine_replica_options(divided)["placement_group_strategy"] == "PACK"
    assert engine_bundles(engine(2)) == [Bundle({"CPU": 4, "GPU": 2})]
    assert engine_bundles(divided) == [
        Bundle({"CPU": 4, "GPU": 1}),
        *[Bundle({"GPU": 1})] * 3,
    ]


def test_a_divided_engine_on_cpus_is_one_bundle() -> None:
    args = {"pipeline_parallel_size": 2}
    assert engine_bundles(EngineConfig(cpus=2, args=args)) == [Bundle({"CPU": 2})]


def test_an_engine_behind_an_endpoint_takes_no_gpu_of_the_cluster() -> None:
    assert engine_bundles(engine(2), endpoint=True) == [Bundle({"CPU": 4})]
    with engine_actors(engine(2), endpoint=True) as options:
        assert options == {"num_cpus": 4, "num_gpus": 0, "resources": {}}


def test_kind_resources_and_labels_of_nodes_are_asked_for() -> None:
    chosen: dict[str, Any] = {"accelerator_type": "H100", "node_labels": {"zone": "!in(b, c)"}}
    with engine_actors(engine(1, resources={"fast_disk": 1}, **chosen)) as options:
        assert options == {
            "num_cpus": 4,
            "num_gpus": 1,
            "resources": {"fast_disk": 1, "accelerator_type:H100": 0.001},
            "label_selector": {"zone": "!in(b, c)"},
        }
    train = TrainConfig(use_gpu=True, resources_per_worker={"fast_disk": 1}, **chosen)
    assert worker_bundle(train) == Bundle(
        {"CPU": 1, "GPU": 1, "fast_disk": 1, "accelerator_type:H100": 0.001},
        {"zone": "!in(b, c)"},
    )


def test_what_asks_models_leaves_a_core_for_reading_and_writing() -> None:
    two = [Bundle({"CPU": 4, "GPU": 1})] * 2
    assert asking_bundles(engine(1, replicas=2)) == [*two, Bundle({"CPU": 1})]
    assert asking_bundles(engine(1, replicas=(2, 9))) == [*two, Bundle({"CPU": 1})]
    assert asking_bundles(engine(1, replicas="auto")) == [*two[:1], Bundle({"CPU": 1})]


def test_a_training_worker_has_one_gpu_or_none() -> None:
    assert worker_bundle(TrainConfig(cpus_per_worker=3)) == Bundle({"CPU": 3})
    assert worker_bundle(TrainConfig(use_gpu=True)) == Bundle({"CPU": 1, "GPU": 1})


def test_what_a_dead_actor_held_is_free_again_and_what_others_hold_is_not(
    ray_cluster: None,
) -> None:
    """Also what a child of it held, and what it asked for and did not get."""
    import ray
    from ray.util import placement_group, placement_group_table, remove_placement_group

    def ask(cpus: float) -> str:
        return placement_group([{"CPU": cpus}]).id.hex()

    class Holder:
        def hold(self, cpus: float) -> str:
            return ask(cpus)

        def hold_through_a_child(self, cpus: float) -> Any:
            self.child = actor.remote()
            return ray.get(self.child.hold.remote(cpus))

    actor: Any = ray.remote(num_cpus=0)(Holder)
    dying, living = actor.remote(), actor.remote()
    own = placement_group([{"CPU": 0.1}])
    lost = {
        ray.get(dying.hold.remote(0.1)),
        ray.get(dying.hold.remote(1000)),
        ray.get(dying.hold_through_a_child.remote(0.1)),
    }
    kept = {ray.get(living.hold.remote(0.1)), own.id.hex()}

    def standing() -> set[str]:
        table = placement_group_table().items()
        return {name for name, row in table if row["state"] != "REMOVED"} & (lost | kept)

    try:
        assert remove_orphaned_placement_groups()
        assert standing() == lost | kept
        ray.kill(dying)
        while standing() != kept:
            assert remove_orphaned_placement_groups()
            time.sleep(0.1)
        ray.kill(living)
        while remove_orphaned_placement_groups():
            time.sleep(0.1)
        assert standing() == {own.id.hex()}
    finally:
        remove_placement_group(own)
