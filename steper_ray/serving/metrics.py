"""Metrics of the ingresses and proxies, exported to Prometheus by Ray's metrics agent on each node.

`cluster/grafana-serving.json` draws them, beside vLLM's own (`ray_vllm_…`).
"""

from typing import Final

from steper_ray.ray_runtime.metrics import Metric

METRICS: Final = {
    "steper_requests_total": Metric(
        "counter",
        "Requests by route, code of the error (`ok` without one) and owner of the key.",
        ("route", "code", "owner"),
    ),
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


PROXY_METRICS: Final = {
    "steper_proxy_refusals_total": Metric(
        "counter", "Requests that a proxy refused itself, by code of the error.", ("code",)
    ),
}
"""Metrics of Serve's proxies, which have no application."""
