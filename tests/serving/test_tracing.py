"""Spans of a question through Ray Serve's own tracing, at an OTLP receiver of a few lines."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from steper_ray.ray_runtime.serve_environment import TRACING, serve_settings

SERVED = """
import asyncio
from opentelemetry import trace
from ray.serve._private.tracing_utils import TraceContextManager, setup_tracing
from steper_ray.serving.request import ServedRequest, serving
from tests.serving.backend import ScriptedBackend, service_over

assert setup_tracing("ingress", "1")

async def main():
    service = service_over(ScriptedBackend())
    with TraceContextManager("request"), serving(ServedRequest("id-1")):
        await service.answer("Who lives where?", service.reasoning.settings)
        await service.search("Who?", 2)

asyncio.run(main())
trace.get_tracer_provider().shutdown()
"""
"""A question as a replica of Serve answers it."""


@contextmanager
def receiver() -> Iterator[tuple[str, list[Any]]]:
    """An OTLP receiver: its address, and the spans that have come."""
    spans: list[Any] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces"
            body = self.rfile.read(int(self.headers["content-length"]))
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    spans.extend(scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", spans
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.timeout(300)
def test_a_question_s_spans_come_to_a_collector() -> None:
    with receiver() as (address, spans):
        environment = {**os.environ, "OTEL_EXPORTER_OTLP_ENDPOINT": address}
        environment |= serve_settings(environment)
        subprocess.run([sys.executable, "-c", SERVED], env=environment, check=True)
    by_id = {span.span_id: span for span in spans}
    (root,) = [span for span in spans if span.name == "request"]
    tree: dict[str, list[str]] = {}
    for span in sorted(spans, key=lambda span: int(span.start_time_unix_nano)):
        if span is not root:
            parent = by_id[span.parent_span_id]
            number = {a.key: a.value.int_value for a in parent.attributes}.get("steper.step", 0)
            tree.setdefault(f"{parent.name} {number}", []).append(span.name)
    assert tree == {
        "request 0": ["steper.step", "steper.step", "steper.search"],
        "steper.step 1": ["steper.search", "steper.generate"],
        "steper.step 2": ["steper.search", "steper.generate"],
    }
    text = str(spans)
    assert "id-1" in text
    assert "lives" not in text  # neither questions nor answers
    said = [
        (a.key, a.value.int_value) for span in spans for a in span.attributes if "tokens" in a.key
    ]
    assert sorted(said) == [
        *(("steper.generated_tokens", 2), ("steper.generated_tokens", 3)),
        *(("steper.prompt_tokens", 10), ("steper.prompt_tokens", 20)),
    ]


def test_without_a_collector_nothing_is_traced() -> None:
    assert not TRACING.keys() & serve_settings({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}).keys()
