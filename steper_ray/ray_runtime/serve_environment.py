"""Environment variables that Ray Serve reads when its proxies and replicas start."""

from collections.abc import Mapping
from typing import Final

SERVE_SETTINGS: Final = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "steper_ray.serving.proxy_middleware:middlewares",
    # a question is seven calls between replicas: without these each costs twice the CPU time
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
}
"""What Serve's proxies and replicas read from the environment of the Ray that they run in. A cluster that
is there already was started with its own: `cluster/` sets the same."""


COLLECTORS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
"""OpenTelemetry's own variables, one of which names the collector that spans are sent to."""


TRACING: Final = {
    "RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH": "steper_ray.serving.tracing:span_processors",
    "RAY_SERVE_TRACING_SAMPLING_RATIO": "1.0",
}


def serve_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """SERVE_SETTINGS, with those of tracing where the environment names a collector."""
    traced = any(environment.get(name) for name in COLLECTORS)
    return {**SERVE_SETTINGS, **(TRACING if traced else {})}
