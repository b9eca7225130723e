"""Metrics of the ingresses, exported to Prometheus by Ray's metrics agent on each node.

`cluster/grafana-dashboard.json` draws them, beside vLLM's own (`ray_vllm_…`).
"""

from dataclasses import dataclass
from typing import Any, Final

SECONDS: Final = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1,
    2.5,
    5,
    10,
    30,
    60,
    120,
    300,
)
"""Upper ends of the latency buckets."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, without Ray's prefix `ray_`."""

    kind: str
    """`counter`, `gauge` or `histogram` (of seconds)."""
    description: str
    tags: Any = ()


METRICS: Final = {
    "steper_questions_total": Metric(
        "counter", "Questions by how they were asked and how they ended.", ("how", "outcome")
    ),
    "steper_places_taken": Metric("gauge", "Questions that the ingress works on."),
    "steper_answer_seconds": Metric("histogram", "Seconds from a question to its answer."),
    "steper_stops_total": Metric("counter", "Answers by why the loop stopped.", ("reason",)),
    "steper_steps_total": Metric("counter", "Steps of answered questions."),
    "steper_tokens_total": Metric(
        "counter",
        "Tokens of answered questions: of prompts, of those cached, and generated.",
        ("kind",),
    ),
    "steper_search_seconds": Metric("histogram", "Seconds of a search."),
    "steper_generate_seconds": Metric("histogram", "Seconds in which the LLM writes a step."),
    "steper_replicas_lost_total": Metric(
        "counter", "Requests whose replica died while it worked on them.", ("of",)
    ),
}


class RayMetrics:
    """Records into Ray's metrics; for a Serve replica, whose name and deployment become tags."""

    def __init__(self) -> None:
        from ray.serve import metrics

        def make(name: str, metric: Metric) -> Any:
            if metric.kind == "counter":
                return metrics.Counter(name, description=metric.description, tag_keys=metric.tags)
            if metric.kind == "gauge":
                return metrics.Gauge(name, description=metric.description, tag_keys=metric.tags)
            return metrics.Histogram(
                name, description=metric.description, boundaries=list(SECONDS), tag_keys=metric.tags
            )

        self._metrics = {name: make(name, metric) for name, metric in METRICS.items()}

    def __call__(self, name: str, value: float, **tags: str) -> None:
        """Count, set or observe a value."""
        metric = self._metrics[name]
        match METRICS[name].kind:
            case "counter":
                if value:  # Ray refuses to add nothing
                    metric.inc(value, tags)
            case "gauge":
                metric.set(value, tags)
            case _:
                metric.observe(value, tags)
