"""Server-sent events; when a reply ends, for whatever reason, the work behind it is cancelled."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from typing import Any, Final, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steper_ray.serving.refusals import RefusedError, error_body

T = TypeVar("T")


STREAM: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/event-stream": {}}}}
"""What OpenAPI says of a route that streams where it is asked to."""


class EventStream(StreamingResponse):
    """Server-sent events made of what a source yields.

    Starlette drops a stream whose client is gone. What is dropped before its first event has no `finally`
    that would run, and the work would go on until Python's garbage collector finds it.
    """

    def __init__(self, events: AsyncIterator[str], source: AsyncGenerator[Any, None]) -> None:
        """source: closed when the reply has ended"""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(events, media_type="text/event-stream", headers=headers)
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._source.aclose()


async def stream_events(
    source: AsyncGenerator[T, None],
    shown: Callable[[T], Iterable[str]],
    failed: Callable[[RefusedError], str],
    *,
    opening: Iterable[str] = (),
) -> EventStream:
    """The events of a source as it yields; what is refused before the first is raised, for a plain reply.

    shown: the text of the events for what it yields; failed: the last event when it is refused later;
    opening: events before all others
    """
    first = await anext(source)

    async def events() -> AsyncIterator[str]:
        for text in (*opening, *shown(first)):
            yield text
        try:
            async for one in source:
                for text in shown(one):
                    yield text
        except RefusedError as refused:
            yield failed(refused)

    return EventStream(events(), source)


def event_text(name: str, data: str) -> str:
    """A server-sent event of one line of data."""
    return f"event: {name}\ndata: {data}\n\n"


def failed_event(refused: RefusedError) -> str:
    """The last event of a stream of ours that is refused."""
    return event_text("error", json.dumps(error_body(refused)))
