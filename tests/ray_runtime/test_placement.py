"""Ray resources of engines and workers; GPUs of a served engine may be on several nodes."""

import pytest

from steper_ray.engines.settings import EngineConfig
from steper_ray.ray_runtime.placement import (
    engine_actor_resources,
    engine_bundles,
    engine_replica_options,
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
