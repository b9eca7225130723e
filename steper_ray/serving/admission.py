"""Limit of questions, searches and chats in progress in one ingress, and of the share that one key has."""

import contextlib
import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

from steper_ray.serving.keys import KeyOwner
from steper_ray.serving.refusals import RefusedError
from steper_ray.serving.request import Place, ServedRequest

logger = logging.getLogger(__name__)


LOG_INTERVAL_S: Final = 60.0
"""Least time between two lines in the log about refused questions."""


PAST: Final = 0.9
"""Weight of earlier questions in the running mean of a question's duration."""


@dataclass
class Admission:
    """Limit on the questions in progress, and the running mean of their duration."""

    most: int
    """Number of places, one for each question in progress."""
    changed: Callable[[int], None] = lambda _taken: None
    """Called with the number of places taken whenever it changes."""
    taken: int = 0
    mean_seconds: float = 1.0
    """Running mean of the seconds that a question holds its place."""
    refused: int = 0
    """Questions refused since the last line about them in the log."""
    logged_at: float = -math.inf
    _of: Counter[str] = field(default_factory=Counter)
    """Owner → places taken with this key."""

    def places_of(self, owner: KeyOwner) -> int:
        """Limit of the places that requests of this owner may hold."""
        return max(1, int(self.most * owner.max_share))

    def check_free(self, owner: KeyOwner) -> None:
        """Raises RefusedError if no place is free, or none of this owner's share."""
        again = max(1.0, self.mean_seconds)
        if self.taken >= self.most:
            self._log_refusal()
            raise RefusedError(
                503,
                "overloaded",
                f"all {self.most} places are taken; ask again later",
                retry_after=again,
            )
        if self._of[owner.name] >= self.places_of(owner):
            raise RefusedError(
                429,
                "share",
                f"all {self.places_of(owner)} places of this API key are taken; ask again later",
                retry_after=again,
            )

    @contextlib.contextmanager
    def reserve_place(self, request: ServedRequest) -> Iterator[None]:
        """Give a request a place while the block runs; raises RefusedError if none is free.

        To be done before the body is read: who sends none then blocks only what its places are.
        """
        with self._taken(request.owner):
            request.place = Place()
            try:
                yield
            finally:
                request.place = None

    @contextlib.contextmanager
    def hold_place(self, request: ServedRequest) -> Iterator[None]:
        """Hold a place while the block works on a question, the request's own if it is not in use.

        Raises RefusedError if another is needed and none is free.
        """
        place = request.place
        if place is None or place.in_use:
            with self._taken(request.owner), self._timed():
                yield
            return
        place.in_use = True
        try:
            with self._timed():
                yield
        finally:
            place.in_use = False

    @contextlib.contextmanager
    def _taken(self, owner: KeyOwner) -> Iterator[None]:
        self.check_free(owner)
        self._count(owner, 1)
        try:
            yield
        finally:
            self._count(owner, -1)

    def _count(self, owner: KeyOwner, places: int) -> None:
        self.taken += places
        self._of[owner.name] += places
        if not self._of[owner.name]:
            del self._of[owner.name]
        self.changed(self.taken)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            held = time.monotonic() - started
            self.mean_seconds = PAST * self.mean_seconds + (1 - PAST) * held

    def _log_refusal(self) -> None:
        self.refused += 1
        now = time.monotonic()
        if now - self.logged_at > LOG_INTERVAL_S:
            logger.warning("%d refused: all %d places are taken", self.refused, self.most)
            self.refused, self.logged_at = 0, now
