"""Server-sent events; the end of a reply, for whatever reason, cancels the work behind the reply."""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from steper_ray.serving.api.openai_errors import as_openai
from steper_ray.serving.refusals import RefusedError, error_body
from steper_ray.serving.request import current_request

T = TypeVar("T")


STREAM: Final[dict[int | str, dict[str, Any]]] = {200: {"content": {"text/event-stream": {}}}}
"""OpenAPI's description of a route that can stream."""


KEEP_ALIVE: Final = ": waiting\n\n"
"""Comment of a stream, which clients skip: proxies close connections on which nothing comes."""


class EventStream(StreamingResponse):
    """Reply of server-sent events that closes their source when it ends.

    Starlette drops a stream whose client has disconnected. A generator that is dropped before its first
    event runs no `finally`, and the work would continue until Python's garbage collector finds it.
    """

    def __init__(
        self,
        events: AsyncIterator[str],
        source: AsyncGenerator[Any, None],
        headers: Mapping[str, str],
    ) -> None:
        """source: generator behind the events, closed at the end of the reply"""
        headers = {"cache-control": "no-store", "x-accel-buffering": "no", **headers}
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
    headers: Mapping[str, str] = MappingProxyType({}),
) -> EventStream:
    """Stream of the events of a source.

    A refusal before the first event is raised, so that it becomes an ordinary reply with its status.

    shown:   texts of the events for an item of the source
    failed:  text of the last event if the source raises a refusal later
    opening: events before all others
    headers: of the reply, beside those of every stream
    """
    first = await anext(source)

    async def events() -> AsyncIterator[str]:
        for text in (*opening, *shown(first)):
            yield text
        try:
            async for item in source:
                for text in shown(item):
                    yield text
        except RefusedError as refused:
            current_request().code = refused.code
            yield failed(refused)

    return EventStream(events(), source, headers)


def event_text(name: str, data: str) -> str:
    """A server-sent event of one line of data."""
    return f"event: {name}\ndata: {data}\n\n"


def failed_event(refused: RefusedError) -> str:
    """Last event of a stream that is refused after it has begun."""
    return event_text("error", json.dumps(error_body(refused)))


def data_text(value: Any) -> str:
    """An event without a name, as OpenAI's streams of chats have them."""
    return f"data: {json.dumps(value)}\n\n"


def openai_failed(refused: RefusedError) -> str:
    """Last event of a stream of OpenAI's interface that is refused after it has begun."""
    return data_text(error_body(as_openai(refused)))
