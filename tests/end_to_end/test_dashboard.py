"""The Grafana dashboards of cluster/ draw every metric of ours, and only metrics that exist."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from steper_ray.chains import metrics as asking
from steper_ray.ray_runtime.metrics import Metric
from steper_ray.serving import metrics as serving
from steper_ray.training import exported_metrics as training

CLUSTER: Final = Path(__file__).parents[2] / "cluster"
GRID: Final = 24
"""Columns of Grafana's grid."""
VLLM: Final = "vllm/v1/metrics/loggers.py"
SERVE: Final = "ray/serve/_private/"
OTHERS: Final = {
    "ray_vllm_generation_tokens_total": (VLLM, "vllm:generation_tokens"),
    "ray_vllm_kv_cache_usage_perc": (VLLM, "vllm:kv_cache_usage_perc"),
    "ray_vllm_num_requests_running": (VLLM, "vllm:num_requests_running"),
    "ray_vllm_num_requests_waiting": (VLLM, "vllm:num_requests_waiting"),
    "ray_vllm_prefix_cache_hits_total": (VLLM, "vllm:prefix_cache_hits"),
    "ray_vllm_prefix_cache_queries_total": (VLLM, "vllm:prefix_cache_queries"),
    "ray_vllm_prompt_tokens_total": (VLLM, "vllm:prompt_tokens"),
    "ray_vllm_time_to_first_token_seconds_bucket": (VLLM, "vllm:time_to_first_token_seconds"),
    "ray_serve_deployment_queued_queries": (SERVE + "router.py", "serve_deployment_queued_queries"),
    "ray_serve_deployment_replica_healthy": (
        SERVE + "deployment_state.py",
        "serve_deployment_replica_healthy",
    ),
    "ray_serve_num_http_requests_total": (
        SERVE + "request_ingress_metrics.py",
        "serve_num_{protocol_name}_requests",
    ),
    "ray_serve_replica_processing_queries": (
        SERVE + "replica.py",
        "serve_replica_processing_queries",
    ),
}
"""vLLM's and Serve's own: where each is made, and what it is called there."""


@dataclass(frozen=True, slots=True)
class Dashboard:
    """A dashboard of cluster/, with what it draws."""

    name: str
    metrics: Mapping[str, Metric]
    others: Mapping[str, tuple[str, str]]
    """Metrics of others."""
    always: frozenset[str]
    """Tags of all metrics of ours."""
    rows: tuple[str, ...]

    @property
    def content(self) -> dict[str, Any]:
        file = CLUSTER / f"grafana-{self.name}.json"
        value = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(value, dict)
        return value

    @property
    def drawn(self) -> list[str]:
        """Every expression of its panels."""
        panels = self.content["panels"]
        return [target["expr"] for panel in panels for target in panel.get("targets", [])]

    def exported(self, name: str) -> set[str]:
        """What Prometheus calls a metric of ours."""
        parts = ("_bucket", "_sum", "_count") if self.metrics[name].kind == "histogram" else ("",)
        return {f"ray_{name}{part}" for part in parts}


DASHBOARDS: Final = [
    Dashboard(
        "serving",
        {**serving.METRICS, **serving.PROXY_METRICS},
        OTHERS,
        frozenset({"application", "deployment", "replica"}),  # of what a Serve replica measures
        ("Traffic", "The loop", "Tokens", "Capacity"),
    ),
    Dashboard(
        "asking",
        asking.METRICS,
        {},
        frozenset({"stage", "run"}),
        ("Progress", "Work", "Engines"),
    ),
    Dashboard(
        "training",
        training.METRICS,
        {},
        frozenset({"run"}),
        ("Learning", "Pace", "Memory and disk"),
    ),
]


every_dashboard = pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.name)


@every_dashboard
def test_a_dashboard_draws_every_metric_and_only_what_there_is(board: Dashboard) -> None:
    names = {name for expr in board.drawn for name in re.findall(r"\bray_\w+", expr)}
    ours = {name: board.exported(name) for name in board.metrics}
    there_are = {*set().union(*ours.values()), *board.others}
    assert names <= there_are
    assert not [name for name, shown in ours.items() if not shown & names], "drawn nowhere"
    assert set(board.others) <= names
    listed = board.content["templating"]["list"]
    variables = [str(one["query"]) for one in listed if one["type"] == "query"]
    assert {name for query in variables for name in re.findall(r"\bray_\w+", query)} <= there_are


@pytest.mark.parametrize("name", OTHERS)
def test_metric_of_another_is_made_where_it_is_said_to_be(name: str) -> None:
    file, called = OTHERS[name]
    package, _, rest = file.partition("/")
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    text = (Path(spec.origin).parent / rest).read_text(encoding="utf-8")
    assert f'"{called}"' in text
    assert re.sub(r"\W", "_", called.replace("{protocol_name}", "http")) in name


@every_dashboard
def test_a_dashboard_asks_for_what_a_metric_can_say(board: Dashboard) -> None:
    """Rates are of counters and buckets; what of ours is summed by is a tag of it."""
    for expr in board.drawn:
        assert expr.count("(") == expr.count(")"), expr
        for name in re.findall(r"(?:rate|increase)\((\w+)", expr):
            assert name.endswith(("_total", "_bucket", "_sum", "_count")), expr
        for name in re.findall(r"(?<!rate\()(?<!increase\()\bray_\w+", expr):
            assert not name.endswith(("_total", "_bucket", "_sum", "_count")), expr
        words = set(re.findall(r"\w+", expr))
        for metric in (m for name, m in board.metrics.items() if board.exported(name) & words):
            tags = {*metric.tags, *board.always, "le"}
            for labels in re.findall(r"by \(([^)]*)\)", expr):
                assert set(labels.split(", ")) <= tags, expr
            assert set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", expr)) <= tags, expr


@every_dashboard
def test_a_dashboard_is_laid_out(board: Dashboard) -> None:
    content = board.content
    assert content["schemaVersion"] == 42
    panels = content["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= GRID
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken.get((x, y))}"
                taken[x, y] = panel["title"]
    rows = [panel["title"] for panel in panels if panel["type"] == "row"]
    assert tuple(rows) == board.rows
    known = {one["name"] for one in content["templating"]["list"]} | {"__rate_interval", "__all"}
    text = json.dumps(content)
    assert set(re.findall(r"\$\{?(\w+)", text)) <= known
    sources = [panel["datasource"] for panel in panels if panel["type"] != "row"]
    sources += [target["datasource"] for panel in panels for target in panel.get("targets", [])]
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in sources)


def test_dashboards_have_names_of_their_own() -> None:
    files = {f"grafana-{board.name}.json" for board in DASHBOARDS}
    assert {file.name for file in CLUSTER.glob("grafana-*.json")} == files
    assert len({board.content["uid"] for board in DASHBOARDS}) == len(DASHBOARDS)


@every_dashboard
def test_metrics_can_be_exported_as_they_are(board: Dashboard) -> None:
    """Ray refuses descriptions that are not ASCII, and its exporter changes names to lower case."""
    for name, metric in board.metrics.items():
        assert metric.description.isascii()
        assert name == name.lower()
