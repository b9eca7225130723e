"""ASGI middleware around the API: checks host, key, rate, place and body of a request, and tells of it.

Pure ASGI, so that a body over the limit is never read whole, and a stream is passed on as it comes.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from starlette._utils import get_route_path
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steper_ray.serving.admission import Admission
from steper_ray.serving.hosts import is_loopback, names_loopback, relative_location
from steper_ray.serving.keys import KeyOwner, KeyRing
from steper_ray.serving.refusals import CODE_HEADER, HEADERS, RefusedError, send_refusal
from steper_ray.serving.request import ServedRequest, serving
from steper_ray.serving.request_report import RequestReport
from steper_ray.serving.settings import ServeConfig

logger = logging.getLogger(__name__)


LONGEST_NUMBER: Final = 18
"""Largest number of digits of a Content-Length that is parsed as a number."""


POLICY_VIOLATION: Final = 1008
"""WebSocket close code of a connection without a valid key; before it is accepted, HTTP's 403."""


WORK: Final = "/v1/"
"""Paths below this one whose POST requests take a place."""


SLASH_REDIRECT: Final = 307
"""Status of Starlette's redirects, which add or take slashes at the end of a path."""


Take = Callable[[str, int, int], Awaitable[float]]
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
        config: ServeConfig,
        admission: Admission,
        report: RequestReport,
    ) -> None:
        """open_paths: the only paths that need no key, as `route_path` gives them"""
        self._app, self._keys, self._take = app, keys, take
        self._open_paths, self._admission, self._report = open_paths, admission, report
        self._most, self._body_s = config.max_body_bytes, config.body_timeout_s
        self._only_local = not keys.required and not config.open and is_loopback(config.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._http(scope, receive, send)
            return
        if scope["type"] == "websocket":
            try:
                self._check_host(scope)
                await self._check_key(scope, ServedRequest())
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
        # the proxy has checked the id, or made one
        request = ServedRequest(Headers(scope=scope).get("x-request-id", "") or uuid.uuid4().hex)
        status, started = None, time.monotonic()

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                request.code = headers.get(CODE_HEADER, "")
                if status == SLASH_REDIRECT and "location" in headers:
                    headers["location"] = relative_location(scope["path"], headers["location"])
            await send(message)

        try:
            with serving(request):
                self._check_host(scope)
                if scope["method"] != "OPTIONS":  # a browser's preflight request, which has no key
                    await self._check_key(scope, request)
                measured = self._measured(scope, receive)
                with self._place(scope, request):
                    await self._app(scope, measured, send_on)
        except RefusedError as refused:
            await send_refusal(refused, send_on)
        except Exception:
            logger.exception("request %s: %s %s failed", request.id, scope["method"], scope["path"])
            if status is not None:
                request.code = "internal"
                raise
            await send_refusal(
                RefusedError(500, "internal", "the server failed; its log says why"), send_on
            )
        except asyncio.CancelledError:
            request.code = "cancelled"
            raise
        finally:
            self._report.tell(scope, request, status, time.monotonic() - started)

    def _check_host(self, scope: Scope) -> None:
        """Raises RefusedError for a foreign host name where nothing but the address keeps others out."""
        if self._only_local and not names_loopback(Headers(scope=scope).get("host", "")):
            message = "without API keys this server answers on localhost only; give it keys, or serve.open"
            raise RefusedError(421, "wrong_host", message)

    async def _check_key(self, scope: Scope, request: ServedRequest) -> None:
        """Raises RefusedError on a path that needs a key, without a valid key or over its rate."""
        if not self._keys.required or route_path(scope) in self._open_paths:
            return
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise RefusedError(401, "no_key", "send an API key as `Authorization: Bearer KEY`")
        owner = self._keys.owner(key.strip())
        if owner is None:
            raise RefusedError(401, "wrong_key", "this API key is not valid for this server")
        request.owner = owner
        if owner.expired:
            raise RefusedError(401, "expired_key", "this API key has expired")
        if owner.requests_per_minute is not None:
            request.charge = self._charge
            await self._charge(owner, 1)

    async def _charge(self, owner: KeyOwner, requests: int) -> None:
        rate = owner.requests_per_minute
        if rate is None:
            return
        if requests > rate:
            message = f"questions: more than the {rate} requests a minute of this API key"
            raise RefusedError(422, "too_large", message, param="questions")
        if (wait := await self._take(owner.name, rate, requests)) > 0:
            raise RefusedError(
                429, "rate", f"over {rate} requests a minute; ask again later", retry_after=wait
            )

    def _place(self, scope: Scope, request: ServedRequest) -> AbstractContextManager[None]:
        """Holds a place for a request that will be worked for; before its body, which may never come."""
        if scope["method"] == "POST" and route_path(scope).startswith(WORK):
            return self._admission.reserve_place(request)
        return nullcontext()

    def _measured(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that refuses a body over the limit, with or without a Content-Length, or too slow."""
        too_large = RefusedError(
            413, "too_large", f"the body is over this server's {self._most} bytes"
        )
        if not (announced := Headers(scope=scope).get("content-length", "0")).isdecimal():
            raise RefusedError(400, "bad_request", "Content-Length is not a number")
        if len(announced) > LONGEST_NUMBER or int(announced) > self._most:
            raise too_large
        size, whole = 0, False
        deadline = asyncio.get_running_loop().time() + self._body_s

        async def measured() -> Message:
            nonlocal size, whole
            if whole:  # waits for the client to go away
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                late = f"the body did not come within this server's {self._body_s:g} seconds"
                raise HTTPException(408, late) from None
            size += len(message.get("body", b""))
            if size > self._most:
                raise HTTPException(
                    413, too_large.message
                )  # FastAPI turns any other error into 400
            whole = not message.get("more_body", False)
            return message

        return measured
