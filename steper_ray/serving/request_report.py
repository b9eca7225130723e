"""What is told of a request that has ended: metrics by route, code and owner, the access log, errors.

Tags are bounded, whatever clients send: routes are those of the API, owners those of known keys.
"""

import logging
from collections.abc import Callable, Collection
from typing import Final

from starlette._utils import get_route_path
from starlette.types import Scope

from steper_ray.serving.access_log import Access, WriteAccess, no_access_log, now
from steper_ray.serving.request import ServedRequest

logger = logging.getLogger(__name__)


CLIENT_GONE: Final = 499
"""Status of a request whose client went away before the reply."""


OWNERS: Final = 200
"""Owners that have metrics of their own; further ones share `other`."""


NO_FAULTS: Final = ("ok", "cancelled", "overloaded")
"""Codes that the log of errors has not for each request; of full places it has a line now and then."""


PROBES: Final = ("/healthz", "/readyz")
"""Routes that the access log has only where they fail."""


class RequestReport:
    """Tells of the requests of one ingress."""

    def __init__(
        self,
        record: Callable[..., None],
        write_access: WriteAccess = no_access_log,
        paths: Collection[str] = (),
    ) -> None:
        """record: see `steper_ray.serving.metrics`
        paths: of the API's routes, for requests that are refused before one is looked up
        """
        self._record, self._write, self._paths = record, write_access, paths
        self._owners: set[str] = set()

    def tell(
        self, scope: Scope, request: ServedRequest, status: int | None, seconds: float
    ) -> None:
        """Record a request; `status` is None where no reply began."""
        status = CLIENT_GONE if status is None else status
        code = request.code or ("ok" if status < 400 else str(status))
        owner = request.owner.name
        path = get_route_path(scope)
        route = path if path in self._paths else "other"
        # Starlette has put the route that matched into the scope
        route = getattr(scope.get("route"), "path", route)
        tags = {"route": route, "code": code, "owner": self._owner_tag(owner)}
        self._record("steper_requests_total", 1, **tags)
        if code not in NO_FAULTS and (status >= 500 or status < 400):
            logger.warning("request %s: %s ended with %d %s", request.id, route, status, code)
        if route in PROBES and status < 400:
            return
        self._write(
            Access(
                now(),
                request.id,
                owner,
                scope["method"],
                route,
                status,
                code,
                request.tokens,
                round(seconds, 4),
            )
        )

    def _owner_tag(self, owner: str) -> str:
        if len(self._owners) < OWNERS:
            self._owners.add(owner)
        return (owner or "none") if owner in self._owners else "other"
