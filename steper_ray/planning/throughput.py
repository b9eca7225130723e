"""Estimates the steady-state throughput of a long run from a short one.

A short run as a whole is slower than a long one: at first the engines warm up, at the end they drain. So
only the busy window counts (chains/busy_window.py), from the first answer to the start of the last
question. In the window steps are counted, not questions: questions that start together finish the short
ones first. A question counts as the mean number of steps of all questions. Warming up and draining are
measured too: a long run has them once, like the short one.

The margin follows from how the throughput varies between equal slices of the window, whether by the
questions or by the machines. It does not cover what machines will do later.

Plain numbers; times are seconds on any one clock.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from steper_ray.planning.estimate import Estimate, student_t, variation

if TYPE_CHECKING:
    from steper_ray.chains.usage import EngineUsage


MIN_WORK: Final = 16.0
"""Lower bound for the work in a busy window, in questions, for an estimate from it."""


MIN_SHARE: Final = 0.2
"""Lower bound for the busy window's share of the run's time, for an estimate from it."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """Throughput of all engines of a reasoner together."""

    per_second: float
    """Samples of questions a second while more are queued."""
    spread: float
    """Coefficient of variation between the parts of the run that it was estimated from."""
    seen: int
    """Number of these parts: slices of the busy window, or questions if `includes_idle`."""
    part: float
    """Work in such a part, in samples of questions."""
    start_seconds: float
    """Seconds of each run until the first engine is ready."""
    idle_seconds: float
    """Seconds that warming up and draining the engines cost each run."""
    includes_idle: bool = False
    """Whether it includes warming up and draining, because the short run had no sufficient busy window."""

    def every(self, seconds: float) -> Estimate:
        """Samples of questions in so many seconds."""
        value = self.per_second * seconds
        return Estimate(value, self._margin(value, 0.0))

    def seconds(self, asked: float) -> Estimate:
        """Seconds of a run of so many samples of questions, from its call to its last answer."""
        if asked <= 0:
            return Estimate(0.0, 0.0)
        working = asked / self.per_second
        margin = self._margin(working, self.part / asked)
        return Estimate(self.start_seconds + working + self.idle_seconds, margin)

    def _margin(self, value: float, per_future_part: float) -> float | None:
        """Margin of a value; per_future_part: one over the number of parts that the run will have."""
        if self.seen < 2:
            return None
        return (
            value
            * student_t(self.seen - 1)
            * self.spread
            * math.sqrt(1 / self.seen + per_future_part)
        )


def estimate_throughput(
    usage: "EngineUsage",
    seconds_Q: Sequence[float],
    *,
    engines: int,
    runs: int = 1,
    max_per_second: float | None = None,
) -> Throughput | None:
    """Throughput of a reasoner's engines; None if nothing was asked.

    usage:          sum over the runs
    seconds_Q:      (questions,) seconds of each: their variation is the spread without a busy window
    engines:        number of engines
    max_per_second: rate limit of the endpoint; None without one
    """
    if not usage.asked or not usage.engine_seconds:
        return None
    enough = (
        usage.waiting_work >= MIN_WORK and usage.waiting_seconds >= MIN_SHARE * usage.engine_seconds
    )
    if enough:
        per_second = engines * usage.waiting_work / usage.waiting_seconds
        seen = usage.waiting_slices
        spread = math.sqrt(usage.waiting_deviations / (seen - 1))
    else:
        per_second = usage.asked / usage.engine_seconds
        seen, spread = usage.asked, variation(seconds_Q)
    idle = max(0.0, usage.engine_seconds - usage.asked / per_second) / runs
    if max_per_second is not None:
        per_second = min(per_second, max_per_second)
    return Throughput(
        per_second=per_second,
        spread=spread,
        seen=seen,
        part=usage.waiting_work / seen if enough else 1.0,
        start_seconds=usage.start_seconds / runs,
        idle_seconds=idle,
        includes_idle=not enough,
    )
