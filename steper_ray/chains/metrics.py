"""Metrics of the actors that ask models, in builds, evaluations and sweeps; each has its stage and run.

`cluster/grafana-asking.json` draws them.
"""

from collections.abc import Sequence
from typing import Final

from steper_ray.chains.usage import EngineUsage
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.ray_runtime.metrics import Metric, RayMetrics

METRICS: Final = {
    "steper_asked_questions_total": Metric("counter", "Samples of questions that were answered."),
    "steper_asked_chains_total": Metric(
        "counter", "Chains by whether they could be made.", ("outcome",)
    ),
    "steper_asked_tokens_total": Metric(
        "counter",
        "Tokens of steps: of prompts, of those cached, and generated.",
        ("kind",),
    ),
    "steper_asked_searches_total": Metric(
        "counter", "Searches, and those of them that were answered from memory.", ("kind",)
    ),
    "steper_asked_step_seconds": Metric(
        "histogram", "Seconds of a step: searching, waiting in the engine and writing."
    ),
    "steper_asking_engines": Metric("gauge", "1 in each actor whose engine is ready."),
    "steper_asking_starts_total": Metric("counter", "Actors that were started, restarts included."),
}


def actor_metrics(log: LaunchLog) -> RayMetrics:
    """The metrics of an actor of a launch."""
    return RayMetrics(METRICS, stage=log.stage, run=log.run)


def record_sample(
    record: RayMetrics, usage: EngineUsage, failed: int, step_seconds: Sequence[float]
) -> None:
    """Record one answered sample.

    usage:  of the sample alone; failed: its chains that could not be made
    """
    record("steper_asked_questions_total", usage.asked)
    record("steper_asked_chains_total", usage.chains - failed, outcome="made")
    record("steper_asked_chains_total", failed, outcome="failed")
    record("steper_asked_tokens_total", usage.prompt_tokens, kind="prompt")
    record("steper_asked_tokens_total", usage.cached_tokens, kind="cached")
    record("steper_asked_tokens_total", usage.generated_tokens, kind="generated")
    record("steper_asked_searches_total", usage.searches, kind="all")
    record("steper_asked_searches_total", usage.remembered, kind="remembered")
    for seconds in step_seconds:
        record("steper_asked_step_seconds", seconds)
