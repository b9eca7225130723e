"""The request under way: its id, whose key it has, its place, and what is told of it when it has ended.

The middleware makes one for each request; what it calls finds it by `current_request`, in this task and in
the tasks that it starts.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Protocol

from steper_ray.serving.keys import KeyOwner, Scope
from steper_ray.serving.refusals import RefusedError

NOBODY: Final = KeyOwner("", None, 1.0, None, expired=False)
"""Owner of a request without a key, to a server that asks for none."""


class Charge(Protocol):
    """Counts further requests against the rate of a key; raises RefusedError over it."""

    async def __call__(self, owner: KeyOwner, requests: int) -> None:
        """Count them."""


@dataclass(slots=True)
class Place:
    """A place that a request has; one question at a time can be worked on in it."""

    in_use: bool = False


@dataclass(slots=True)
class ServedRequest:
    """A request under way."""

    id: str = ""
    owner: KeyOwner = NOBODY
    place: Place | None = None
    """Taken before the body is read; None for a request that needs none."""
    charge: Charge | None = None
    """None where the owner has no rate."""
    tokens: int = 0
    """Tokens of prompts and answers, as far as they are known."""
    code: str = ""
    """Code of the error that ended a reply which had begun."""

    def check_scope(self, *scopes: Scope) -> None:
        """Raises RefusedError if the key allows none of these."""
        if not any(self.owner.may(scope) for scope in scopes):
            allowed = ", ".join(self.owner.scopes or ())
            raise RefusedError(403, "scope", f"this API key is for {allowed} only")

    async def count_more(self, requests: int) -> None:
        """Count further requests against the key's rate; raises RefusedError over it."""
        if self.charge is not None and requests > 0:
            await self.charge(self.owner, requests)


_CURRENT: ContextVar[ServedRequest | None] = ContextVar("request", default=None)


def current_request() -> ServedRequest:
    """The request under way; one of nobody where there is none, as in a library or a test."""
    return _CURRENT.get() or ServedRequest()


@contextmanager
def serving(request: ServedRequest) -> Iterator[None]:
    """Make it the request under way while the block runs."""
    token = _CURRENT.set(request)
    try:
        yield
    finally:
        _CURRENT.reset(token)
