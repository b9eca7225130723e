"""Ray resources of engines: GPUs that may be on several nodes, CPU cores with the first."""

import pytest

from steper_ray.engines.settings import EngineConfig
from steper_ray.ray_runtime.placement import engine_bundles, engine_replica_options


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
