"""Refused requests: the error, and the reply that a client gets."""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from starlette.types import Send

from steper_ray.errors import SteperError


class RefusedError(SteperError):
    """A refused request, with the status and body of its reply."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float = 0,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status, self.code, self.param = status, code, param
        self.retry_after = retry_after
        """Seconds after which the client may ask again; 0 if asking again does not help."""


HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}
"""Security headers of every reply."""


CODE_HEADER: Final = "x-error-code"
"""Header with the code of the error, for middleware and proxies that do not read bodies."""


def error_body(refused: RefusedError) -> dict[str, Any]:
    """Body of a refusal, in OpenAI's error format."""
    kind = {401: "authentication_error", 429: "rate_limit_error"}.get(refused.status)
    if kind is None:
        kind = "invalid_request_error" if refused.status < 500 else "server_error"
    return {
        "error": {
            "message": refused.message,
            "type": kind,
            "code": refused.code,
            "param": refused.param,
        }
    }


def error_headers(refused: RefusedError) -> dict[str, str]:
    """The headers of a refusal."""
    headers = {CODE_HEADER: refused.code}
    if refused.retry_after:
        headers["retry-after"] = str(-int(-refused.retry_after // 1))
    if refused.status == 401:
        headers["www-authenticate"] = "Bearer"
    return headers


async def send_refusal(
    refused: RefusedError, send: Send, more: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Send a refusal as the whole reply; `more` are further headers."""
    body = json.dumps(error_body(refused)).encode()
    headers = {"content-type": "application/json", "content-length": str(len(body)), **HEADERS}
    headers |= error_headers(refused) | dict(more)
    raw = [(k.encode(), v.encode()) for k, v in headers.items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
