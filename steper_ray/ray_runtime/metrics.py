"""Metrics that Ray's agent on each node exports to Prometheus; tables say which there are.

The dashboards of `cluster/` draw them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
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
"""Upper ends of the buckets of histograms."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, without Ray's prefix `ray_`."""

    kind: str
    """`counter`, `gauge` or `histogram` (of seconds)."""
    description: str
    tags: Any = ()


class RayMetrics:
    """Records into the metrics of a table."""

    def __init__(
        self,
        table: Mapping[str, Metric],
        module: ModuleType | None = None,
        **always: str,
    ) -> None:
        """
        module: `ray.serve.metrics` within a Serve replica, whose name and deployment become tags; None is
                `ray.util.metrics`
        always: tags of everything that is recorded
        """
        if module is None:
            from ray.util import metrics as module
        assert module is not None

        def make(name: str, metric: Metric) -> Any:
            options = {
                "description": metric.description,
                "tag_keys": (*metric.tags, *always),
            }
            if metric.kind == "counter":
                return module.Counter(name, **options)
            if metric.kind == "gauge":
                return module.Gauge(name, **options)
            return module.Histogram(name, boundaries=list(SECONDS), **options)

        self._table, self._always = table, always
        self._metrics = {name: make(name, metric) for name, metric in table.items()}

    def __call__(self, name: str, value: float, **tags: str) -> None:
        """Count, set or observe a value."""
        metric, all_tags = self._metrics[name], {**self._always, **tags}
        match self._table[name].kind:
            case "counter":
                if value:  # Ray refuses to add nothing
                    metric.inc(value, all_tags)
            case "gauge":
                metric.set(value, all_tags)
            case _:
                metric.observe(value, all_tags)
