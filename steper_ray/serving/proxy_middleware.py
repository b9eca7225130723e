"""ASGI middleware in Ray Serve's HTTP proxies: makes the loss of an ingress a retryable 503, sheds load.

A proxy whose ingress dies replies "Internal Server Error", or stops in the middle of a stream. This
middleware turns both into an error that a client can act on: nothing was done, asking again is safe. It
puts the proxy's own errors into the format of every other error, and refuses a body that is too large for
any ingress without forwarding it. Headers by which clients could give orders to Serve are taken away, and
the id of a request is checked or made.

Ingresses over their capacity refuse questions, and a flood of refusals would cost more than the answers. So
a proxy learns from the refusals how many questions the ingresses accept from it, and refuses the others
itself.

Ray imports this module where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares`, as
`steper_ray.ray_runtime.serve_environment` sets it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from steper_ray.ray_runtime.metrics import RayMetrics
from steper_ray.serving.api.events import failed_event
from steper_ray.serving.client_headers import REQUEST_ID, checked_headers
from steper_ray.serving.metrics import PROXY_METRICS
from steper_ray.serving.refusals import CODE_HEADER, RefusedError, send_refusal

LARGEST_BODY: Final = 32 * 2**20
"""Largest body that a proxy forwards, in bytes; `serve.max_body_bytes` is the ingress's own limit."""


LOST_REPLY: Final = RefusedError(
    503,
    "replica_lost",
    "the server lost the process that worked on this; nothing was done, asking again is safe",
    retry_after=1,
)


OVERLOADED: Final = RefusedError(
    503, "overloaded", "all places are taken; ask again later", retry_after=1
)


STOPPING: Final = RefusedError(
    503, "stopping", "the server is being stopped or started again; ask again later", retry_after=5
)


TOO_LARGE: Final = RefusedError(413, "too_large", f"the body is over {LARGEST_BODY} bytes")


ASKING: Final = (
    *("/v1/answer", "/v1/answers", "/v1/search"),
    *("/v1/chat/completions", "/v1/completions", "/v1/responses"),
)
"""Paths whose requests take places in an ingress, behind the `route_prefix` of its application."""


SERVE_ERRORS: Final = (404, 408, 429, 500, 503)
"""Statuses of the errors that Serve's proxy words itself, in plain text: no application, its own deadline,
no ingress with a free place (429, 503), an ingress that failed."""


PROBE_S: Final = 0.25
"""Seconds between two questions that are let through over the limit, as a trial."""


FIRST_LIMIT: Final = 256
"""Questions that are forwarded at a time before anything is known of the ingresses: what waits in them
otherwise, as health checks, needs room too."""


GROWTH: Final = 1.25
"""Factor by which the limit grows when such a trial is answered."""


@dataclass
class Capacity:
    """Learned limit of concurrent questions from this proxy.

    A refusal lowers the limit to the number of questions that were accepted. Now and then a question over
    the limit is let through; if it is answered, the limit rises. So it follows the number of replicas.
    """

    clock: Callable[[], float] = time.monotonic
    most: float = FIRST_LIMIT
    taken: int = 0
    _probed: float = -math.inf

    def enter(self) -> bool:
        """Count a question in, if the limit allows it."""
        if self.taken >= self.most:
            if self.clock() - self._probed < PROBE_S:
                return False
            self._probed = self.clock()
        self.taken += 1
        return True

    def leave(self, *, refused: bool) -> None:
        """Count a finished question out."""
        if refused:
            self.most = max(1, self.taken - 1)
        elif self.taken > self.most:
            self.most = max(self.taken, self.most * GROWTH)
        self.taken -= 1


def middlewares() -> list[Middleware]:
    """The middlewares that Ray Serve's proxies install."""
    refusals = RayMetrics(PROXY_METRICS)

    def count(code: str) -> None:
        refusals("steper_proxy_refusals_total", 1, code=code)

    return [Middleware(ProxyMiddleware, count)]


def asked_mount(scope: Scope) -> str | None:
    """Mount point of the application that a question is sent to; None for any other request.

    Read from the path, because the proxy has not yet looked up the application.
    """
    if scope["method"] != "POST":
        return None
    path: str = scope["path"]
    return next((path.removesuffix(end) for end in ASKING if path.endswith(end)), None)


class ProxyMiddleware:
    """ASGI middleware around a proxy."""

    def __init__(self, app: ASGIApp, count: Callable[[str], None] = lambda _code: None) -> None:
        """count: called with the code of each request that the proxy refuses itself"""
        self._app, self._count = app, count
        self._capacities: dict[str, Capacity] = {}
        """Mount point → capacity: each application has ingresses of its own."""
        self._served: set[str] = set()
        """Mount points at which an application has answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        scope["headers"] = headers = checked_headers(scope["headers"])
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        stopped = any(f"{scope['path']}/".startswith(f"{mount}/") for mount in self._served)
        reply = _ReplyWatcher(send, dict(headers)[REQUEST_ID], self._count, stopped=stopped)
        mount = asked_mount(scope)
        if mount is None:
            await self._forward(scope, receive, reply)
            return
        capacity = self._capacities.setdefault(mount, Capacity())
        if not capacity.enter():
            await reply.refuse(OVERLOADED)
            return
        try:
            await self._forward(scope, receive, reply)
        finally:
            capacity.leave(refused=reply.overloaded)
            # Serve has set root_path by now; paths of no application must not fill the dictionary
            if not capacity.taken and scope.get("root_path", "") != mount:
                del self._capacities[mount]

    async def _forward(self, scope: Scope, receive: Receive, reply: "_ReplyWatcher") -> None:
        gone = False
        size = 0

        async def measured() -> Message:
            nonlocal gone, size
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                gone = True
            elif size > LARGEST_BODY:
                await reply.refuse(TOO_LARGE)
                return {"type": "http.disconnect"}
            return message

        try:
            await self._app(scope, measured, reply.send)
        finally:
            if reply.by_application:  # Serve has set root_path by now
                self._served.add(scope.get("root_path", "").rstrip("/"))
            if not gone:
                await reply.end()


class _ReplyWatcher:
    """Watches how much of a reply has been sent."""

    def __init__(
        self, send: Send, request_id: bytes, count: Callable[[str], None], *, stopped: bool
    ) -> None:
        """stopped: whether an application that is not found is one that has answered before"""
        self._send, self._id, self._count, self._stopped = send, request_id, count, stopped
        self._start: Message | None = None
        """First message of the reply, once it has been sent."""
        self._ours = self._finished = False
        self.overloaded = False
        """Whether the reply says that the ingresses have no free place."""

    @property
    def by_application(self) -> bool:
        """Whether the reply is an application's."""
        return self._start is not None

    async def send(self, message: Message) -> None:
        """Forward every reply of an application; reword the proxy's own plain-text errors."""
        if self._ours:
            return
        if message["type"] == "http.response.start":
            status, headers = message["status"], dict(message["headers"])
            self.overloaded = headers.get(CODE_HEADER.encode()) == b"overloaded"
            plain = headers.get(b"content-type", b"").startswith(b"text/plain")
            if status in SERVE_ERRORS and plain:
                if status == 404 and self._stopped:
                    await self.refuse(STOPPING)
                    return
                status = {408: 504, 500: 503}.get(int(status), int(status))
                code = {404: "not_found", 504: "deadline"}.get(status, "overloaded")
                self.overloaded = status in (429, 503)
                again = "" if status == 404 else "; ask again later"
                after = float(headers.get(b"retry-after", 1)) if status in (429, 503) else 0
                text = f"the server cannot take this now{again}"
                await self.refuse(RefusedError(status, code, text, retry_after=after))
                return
            self._start = message
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._finished = True
        await self._send(message)

    async def refuse(self, refused: RefusedError) -> None:
        """Send an error as the whole reply, unless a reply has begun."""
        if not self._ours and self._start is None:
            self._ours = self._finished = True
            self._count(refused.code)
            await send_refusal(refused, self._send, {REQUEST_ID.decode(): self._id.decode()})

    async def end(self) -> None:
        """Finish a reply that the proxy left open because its ingress died."""
        if self._finished:
            return
        if self._start is None:
            await self.refuse(LOST_REPLY)
            return
        self._finished = True
        self._count(LOST_REPLY.code)
        headers = dict(self._start["headers"])
        if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            event = failed_event(LOST_REPLY).encode()
            await self._send({"type": "http.response.body", "body": event})
