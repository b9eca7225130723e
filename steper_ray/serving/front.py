"""What stands in Serve's HTTP proxies, before any ingress: the last word when an ingress dies.

A proxy whose ingress is lost says "Internal Server Error", or just stops in the middle of a stream. Here
that becomes an answer that a client can act on: nothing was done, asking again is safe. The proxy's own
refusals get the form of every other error, and a body that no ingress would take is not even forwarded.

Ray imports it where RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names `middlewares` (`steper_ray.session`).
"""

import json
from typing import Any, Final

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_BODY: Final = 32 * 2**20
"""Bytes of a body that a proxy still takes in; `serve.max_body_bytes` is the ingress's own limit."""
LOST: Final = (
    "the server lost the process that worked on this; nothing was done, asking again is safe"
)


def middlewares() -> list[Middleware]:
    """For Ray Serve's proxies."""
    return [Middleware(Front)]


class Front:
    """ASGI middleware around a proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        reply = _Reply(send)
        gone = False
        size = 0

        async def measured() -> Message:
            nonlocal gone, size
            message = await receive()
            size += len(message.get("body", b""))
            if message["type"] == "http.disconnect":
                gone = True
            elif size > LARGEST_BODY:
                await reply.refuse(413, "too_large", f"the body is over {LARGEST_BODY} bytes")
                return {"type": "http.disconnect"}
            return message

        try:
            await self._app(scope, measured, reply.send)
        finally:
            if not gone:
                await reply.end()


class _Reply:
    """What has been sent of a reply."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        """Of a reply of the proxy's."""
        self._ours = self._finished = False

    async def send(self, message: Message) -> None:
        """Send what the proxy sends, but for errors of its own, which are plain text."""
        if self._ours:
            return
        if message["type"] == "http.response.start":
            status, headers = message["status"], dict(message["headers"])
            if status >= 400 and not headers.get(b"content-type", b"").startswith(
                b"application/json"
            ):
                # 408: the proxy's own deadline; 404: no application; 429, 503: no ingress takes more
                status = {408: 504, 500: 503}.get(int(status), int(status))
                code = {404: "not_found", 504: "deadline"}.get(status, "overloaded")
                again = "" if status == 404 else "; ask again later"
                after = headers.get(b"retry-after", b"1")
                await self.refuse(status, code, f"the server cannot take this now{again}", after)
                return
            self._start = message
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._finished = True
        await self._send(message)

    async def refuse(self, status: int, code: str, text: str, after: bytes = b"") -> None:
        """Make an error the whole reply, if none has begun."""
        if self._ours or self._start is not None:
            return
        self._ours = self._finished = True
        kind = "server_error" if status >= 500 else "invalid_request_error"
        headers = [(b"content-type", b"application/json")]
        if after and status in (429, 503):
            headers.append((b"retry-after", after))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": _error(text, kind, code)})

    async def end(self) -> None:
        """Finish a reply that the proxy left open: its ingress is gone."""
        if self._finished:
            return
        if self._start is None:
            await self.refuse(503, "replica_lost", LOST, b"1")
            return
        self._finished = True
        headers = dict(self._start["headers"])
        if headers.get(b"content-type", b"").startswith(b"text/event-stream"):
            event = b"event: error\ndata: " + _error(LOST, "server_error", "replica_lost") + b"\n\n"
            await self._send({"type": "http.response.body", "body": event})


def _error(message: str, kind: str, code: str) -> bytes:
    body: dict[str, Any] = {
        "error": {"message": message, "type": kind, "code": code, "param": None}
    }
    return json.dumps(body).encode()
