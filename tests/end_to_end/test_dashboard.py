"""The Grafana dashboard of cluster/ draws every metric of the server, and only metrics that exist."""

import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest

from steper_ray.serving.metrics import METRICS

DASHBOARD: Final = Path(__file__).parents[2] / "cluster" / "grafana-dashboard.json"
GRID: Final = 24
"""Columns of Grafana's grid."""
EVERY_SERVE_TAG: Final = {"application", "deployment", "replica"}
"""Of what a Serve replica measures."""
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


def exported(name: str) -> set[str]:
    """What Prometheus calls a metric of ours."""
    parts = ("_bucket", "_sum", "_count") if METRICS[name].kind == "histogram" else ("",)
    return {f"ray_{name}{part}" for part in parts}


def dashboard() -> dict[str, Any]:
    value = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    assert isinstance(value, dict)
    return value


def drawn(board: dict[str, Any]) -> list[str]:
    """Every expression of its panels."""
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]


def test_dashboard_draws_every_metric_and_only_what_there_is() -> None:
    board = dashboard()
    names = {name for expr in drawn(board) for name in re.findall(r"\bray_\w+", expr)}
    ours = {name: exported(name) for name in METRICS}
    assert names <= set().union(*ours.values(), OTHERS)
    assert not [name for name, shown in ours.items() if not shown & names], "drawn nowhere"
    assert set(OTHERS) <= names
    variables = [str(one["query"]) for one in board["templating"]["list"] if one["type"] == "query"]
    assert {name for query in variables for name in re.findall(r"\bray_\w+", query)} <= set(OTHERS)


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


def test_dashboard_asks_for_what_a_metric_can_say() -> None:
    """Rates are of counters and buckets; what of ours is summed by is a tag of it."""
    for expr in drawn(dashboard()):
        assert expr.count("(") == expr.count(")"), expr
        for name in re.findall(r"(?:rate|increase)\((\w+)", expr):
            assert name.endswith(("_total", "_bucket", "_sum", "_count")), expr
        for name in re.findall(r"(?<!rate\()(?<!increase\()\bray_\w+", expr):
            assert not name.endswith(("_total", "_bucket", "_sum", "_count")), expr
        ours = [METRICS[name] for name in METRICS if exported(name) & set(re.findall(r"\w+", expr))]
        for metric in ours:
            tags = {*metric.tags, *EVERY_SERVE_TAG, "le"}
            for labels in re.findall(r"by \(([^)]*)\)", expr):
                assert set(labels.split(", ")) <= tags, expr
            assert set(re.findall(r"(\w+)(?:=|!=|=~|!~)\"", expr)) <= tags, expr


def test_dashboard_is_laid_out() -> None:
    board = dashboard()
    assert board["schemaVersion"] == 42
    panels = board["panels"]
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
    assert rows == ["Traffic", "The loop", "Tokens", "Capacity"]
    known = {one["name"] for one in board["templating"]["list"]} | {"__rate_interval", "__all"}
    text = json.dumps(board)
    assert set(re.findall(r"\$\{?(\w+)", text)) <= known
    sources = [panel["datasource"] for panel in panels if panel["type"] != "row"]
    sources += [target["datasource"] for panel in panels for target in panel.get("targets", [])]
    assert all(one == {"type": "prometheus", "uid": "${datasource}"} for one in sources)
