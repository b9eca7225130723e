"""Ray resources of engines and workers; GPUs of a served engine may be on several nodes."""

import time
from typing import Any

import pytest

from steper_ray.engines.settings import EngineConfig
from steper_ray.ray_runtime.placement import (
    engine_actor_resources,
    engine_bundles,
    engine_replica_options,
    remove_orphaned_placement_groups,
    training_worker_resources,
)
from steper_ray.training.settings import TrainConfig


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (0, [{"CPU": 4}]),
        (0.5, [{"GPU": 0.5, "CPU": 4}]),
        (1, [{"GPU": 1, "CPU": 4}]),
        (2, [{"GPU": 1, "CPU": 4}, {"GPU": 1}]),
    ],
)
def test_each_gpu_is_a_bundle_and_the_first_has_the_cores(
    gpus: float, expected: list[dict[str, float]]
) -> None:
    assert engine_bundles(EngineConfig(cpus=4, gpus=gpus)) == expected


def test_the_replica_itself_fits_into_the_first_bundle() -> None:
    options = engine_replica_options(EngineConfig(cpus=4, gpus=2))
    assert options["ray_actor_options"] == {"num_cpus": 4}
    assert options["placement_group_bundles"][0]["CPU"] == 4


def test_an_actor_has_the_whole_engine_and_behind_an_endpoint_no_gpu() -> None:
    engine = EngineConfig(cpus=4, gpus=2)
    assert engine_actor_resources(engine) == {"CPU": 4, "GPU": 2}
    assert engine_actor_resources(engine, endpoint=True) == {"CPU": 4, "GPU": 0}


def test_a_training_worker_has_one_gpu_or_none() -> None:
    assert training_worker_resources(TrainConfig(cpus_per_worker=3)) == {"CPU": 3, "GPU": 0}
    assert training_worker_resources(TrainConfig(use_gpu=True)) == {"CPU": 1, "GPU": 1}


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
