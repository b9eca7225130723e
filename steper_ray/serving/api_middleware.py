"""ASGI middleware around the API: checks key, rate and size of a request, adds headers to every reply.

Pure ASGI, so that a body over the limit is never read whole, and a stream is passed on as it comes.
"""

import logging
from collections.abc import Awaitable, Callable, Collection
from typing import Final

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steper_ray.serving.keys import KeyRing
from steper_ray.serving.refusals import HEADERS, RefusedError, send_refusal

logger = logging.getLogger(__name__)


LONGEST_NUMBER: Final = 18
"""Largest number of digits of a Content-Length that is parsed as a number."""


POLICY_VIOLATION: Final = 1008
"""WebSocket close code of a connection without a valid key; before it is accepted, HTTP's 403."""


Take = Callable[[str, int], Awaitable[float]]
"""Counter of an owner's requests over all ingresses, as `RateLimiter.take`."""


def route_path(scope: Scope) -> str:
    """The path of a request relative to `root_path`, which is where the server is mounted.

    `scope["path"]` may or may not begin with `root_path` (Ray Serve's `route_prefix`, a proxy's prefix). By
    Starlette's own function, so that a request is never checked as one path and routed as another.
    """
    return get_route_path(scope) or "/"


class ApiMiddleware:
    """ASGI middleware around the API."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        keys: KeyRing,
        take: Take,
        open_paths: Collection[str],
        max_body_bytes: int,
    ) -> None:
        """open_paths: the only paths that need no key, as `route_path` gives them"""
        self._app, self._keys, self._take = app, keys, take
        self._open_paths, self._most = open_paths, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
            return
        if scope["type"] == "websocket":
            try:
                await self._check_key(scope)
            except RefusedError as refused:
                await send(
                    {
                        "type": "websocket.close",
                        "code": POLICY_VIOLATION,
                        "reason": refused.message,
                    }
                )
                return
        await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            if scope["method"] != "OPTIONS":  # a browser's preflight request, which has no key
                await self._check_key(scope)
            await self._app(scope, self._measured(scope, receive), send_on)
        except RefusedError as refused:
            await send_refusal(refused, send_on)
        except Exception:
            logger.exception("%s %s failed", scope["method"], scope["path"])
            if started:
                raise
            await send_refusal(
                RefusedError(500, "internal", "the server failed; its log says why"), send_on
            )

    async def _check_key(self, scope: Scope) -> None:
        """Raises RefusedError on a path that needs a key, without a valid key or over its rate."""
        if not self._keys.required or route_path(scope) in self._open_paths:
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise RefusedError(401, "no_key", "send an API key as `Authorization: Bearer KEY`")
        owner = self._keys.owner(key.strip())
        if owner is None:
            raise RefusedError(401, "wrong_key", "this API key is not valid for this server")
        rate = self._keys.rate(owner)
        if rate is not None and (wait := await self._take(owner, rate)) > 0:
            raise RefusedError(
                429, "rate", f"over {rate} requests a minute; ask again later", retry_after=wait
            )

    def _measured(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that refuses a body over the limit, with or without a Content-Length."""
        too_large = RefusedError(
            413, "too_large", f"the body is over this server's {self._most} bytes"
        )
        if not (announced := Headers(scope=scope).get("content-length", "0")).isdecimal():
            raise RefusedError(400, "bad_request", "Content-Length is not a number")
        if len(announced) > LONGEST_NUMBER or int(announced) > self._most:
            raise too_large
        size = 0

        async def measured() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self._most:
                raise HTTPException(
                    413, too_large.message
                )  # FastAPI turns any other error into 400
            return message

        return measured
