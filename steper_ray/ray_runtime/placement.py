"""Settings of engines and workers as Ray resources: placement-group bundles."""

from collections.abc import Mapping

from steper_ray.engines.settings import EngineConfig


def bundles(config: EngineConfig) -> list[dict[str, float]]:
    """The resources of an engine's workers, one bundle each: GPUs apart, so that they may be on several
    nodes; the first has the CPU cores too.
    """
    if not config.gpus:
        return [{"CPU": config.cpus}]
    shares = [1.0] * int(config.gpus) or [config.gpus]
    return [
        {"GPU": share, **({} if place else {"CPU": config.cpus})}
        for place, share in enumerate(shares)
    ]


Resources = Mapping[str, float]
