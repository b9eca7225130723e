"""Limit of questions in progress in one ingress."""

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from steper_ray.serving.refusals import RefusedError

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
    taken: int = 0
    mean_seconds: float = 1.0
    """Running mean of the seconds that a question holds its place."""
    refused: int = 0
    """Questions refused since the last line about them in the log."""
    logged_at: float = -math.inf

    def check_free(self) -> None:
        """Raises RefusedError if no place is free."""
        if self.taken >= self.most:
            self._log_refusal()
            raise RefusedError(
                503,
                "overloaded",
                f"all {self.most} places are taken; ask again later",
                retry_after=max(1.0, self.mean_seconds),
            )

    @contextlib.contextmanager
    def hold_place(self) -> Iterator[None]:
        """Hold a place while the block runs; raises RefusedError if none is free."""
        self.check_free()
        self.taken += 1
        started = time.monotonic()
        try:
            yield
        finally:
            self.taken -= 1
            held = time.monotonic() - started
            self.mean_seconds = PAST * self.mean_seconds + (1 - PAST) * held

    def _log_refusal(self) -> None:
        self.refused += 1
        now = time.monotonic()
        if now - self.logged_at > LOG_INTERVAL_S:
            logger.warning("%d refused: all %d places are taken", self.refused, self.most)
            self.refused, self.logged_at = 0, now
