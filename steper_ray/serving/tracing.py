"""OpenTelemetry spans of steps, searches and generations, beside Ray Serve's own of proxies and replicas.

Serve calls `span_processors` in its proxies and replicas where RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH names
it, as `steper_ray.ray_runtime.serve_environment` has it for a collector in OTEL_EXPORTER_OTLP_ENDPOINT.
Without a collector the spans are OpenTelemetry's empty ones. No span has text of questions or answers.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry import trace

from steper_ray.reasoning.loop import Event, PassagesFound, SearchStarted, StepFinished
from steper_ray.serving.request import current_request

STEP: Final = "steper.step"


SEARCH: Final = "steper.search"


GENERATE: Final = "steper.generate"


def span_processors() -> list[Any]:
    """Sends spans by OTLP over HTTP to where OTEL_EXPORTER_OTLP_ENDPOINT leads; called by Ray Serve."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    return [BatchSpanProcessor(OTLPSpanExporter())]


def span(name: str, **attributes: Any) -> Any:
    """Context manager of a span, below the one under way; its attributes get the prefix `steper.`."""
    named = {f"steper.{key}": value for key, value in attributes.items()}
    named["steper.request_id"] = current_request().id
    return trace.get_tracer(__name__).start_as_current_span(name, attributes=named)


class LoopSpans:
    """Spans of one question, made from the events of its loop; a context manager around the loop.

    Serve's spans of the replicas that search and write lie below ours of the search and the generation.
    """

    def __init__(self, watch: Callable[[Event], None] | None = None) -> None:
        """watch: called with each event too"""
        self._watch = watch
        self._step, self._part = ExitStack(), ExitStack()
        self._searched = False

    def __enter__(self) -> Self:
        self._begin(1)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._part.__exit__(kind, error, traceback)
        self._step.__exit__(kind, error, traceback)

    def __call__(self, event: Event) -> None:
        """Begin and end spans at an event."""
        match event:
            case SearchStarted():
                self._searched = True
                self._part.enter_context(span(SEARCH))
            case PassagesFound(_, hits, _):
                trace.get_current_span().set_attribute("steper.passages", len(hits))
                self._part.close()
                self._part.enter_context(span(GENERATE))
            case StepFinished(number, step, _, last):
                tokens = {
                    "steper.prompt_tokens": step.prompt_tokens,
                    "steper.generated_tokens": step.generated_tokens,
                }
                if self._searched:
                    trace.get_current_span().set_attributes(tokens)
                else:  # no event says that its generation began
                    began = time.time_ns() - int(step.generate_seconds * 1e9)
                    tracer = trace.get_tracer(__name__)
                    tracer.start_span(GENERATE, start_time=began, attributes=tokens).end()
                self._part.close()
                self._step.close()
                if not last:
                    self._begin(number + 1)
        if self._watch is not None:
            self._watch(event)

    def _begin(self, number: int) -> None:
        self._searched = False
        self._step.enter_context(span(STEP, step=number))
