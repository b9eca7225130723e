"""A reply of server-sent events that ends the work behind it, however the reply itself ends."""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any, Final

from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

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
