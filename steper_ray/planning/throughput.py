"""The pace of a long run, seen in a short one.

A short run as a whole is too slow a picture of a long one: at its beginning the engines warm up, at its
end they run empty. So only the time counts from when the first question was done until the last one was
begun. In it steps are counted, not questions: those begun together at the start are at the same steps, and
the short ones are done first. A question is worth as many steps as the mean of all. What warming up and
running empty cost is known too: a long run has them once, as the short one had.

How sure the pace is follows from how it varies between equal parts of that time, be it for the questions or
for the machines. It cannot know what machines will do later.

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
"""Questions' worth of work that must have been done while others waited, for a pace to be seen in it."""


MIN_SHARE: Final = 0.2
"""Share of the run, by time, in which others must have waited."""


@dataclass(frozen=True, slots=True)
class Throughput:
    """How fast all engines of a respondent work together."""

    per_second: float
    """Questions and samples a second, as long as more are waiting."""
    spread: float
    """Coefficient of variation between what it was seen in."""
    seen: int
    """Parts of the run that it was seen in (of one that is too slow, questions)."""
    part: float
    """Questions' and samples' worth of work of such a part."""
    start_seconds: float
    """Until the first engine is ready, each time."""
    idle_seconds: float
    """What warming up at the beginning and running empty at the end cost, each time."""
    too_slow: bool = False
    """Whether it is that of a whole short run, with both of these, as nothing better was seen."""

    def every(self, seconds: float) -> Estimate:
        """Questions and samples in so many seconds."""
        value = self.per_second * seconds
        return Estimate(value, self._margin(value, 0.0))

    def seconds(self, asked: float) -> Estimate:
        """How long a run of so many takes, from its call to its last question."""
        if asked <= 0:
            return Estimate(0.0, 0.0)
        working = asked / self.per_second
        margin = self._margin(working, self.part / asked)
        return Estimate(self.start_seconds + working + self.idle_seconds, margin)

    def _margin(self, value: float, of_one: float) -> float | None:
        """How far off a value may be; of_one: one over the parts that are still to come."""
        if self.seen < 2:
            return None
        return value * student_t(self.seen - 1) * self.spread * math.sqrt(1 / self.seen + of_one)


def estimate_throughput(
    ran: "EngineUsage",
    seconds_Q: Sequence[float],
    *,
    engines: int,
    runs: int = 1,
    most_per_second: float | None = None,
) -> Throughput | None:
    """The pace of runs; None where nothing was asked.

    ran:             all the runs together
    seconds_Q:       (questions,) how long each was at work: how they vary, where nothing better was seen
    engines:         how many work at a time
    most_per_second: what the endpoint allows; None where nothing is limited
    """
    if not ran.asked or not ran.engine_seconds:
        return None
    enough = ran.waiting_work >= MIN_WORK and ran.waiting_seconds >= MIN_SHARE * ran.engine_seconds
    if enough:
        per_second = engines * ran.waiting_work / ran.waiting_seconds
        seen = ran.waiting_slices
        spread = math.sqrt(ran.waiting_deviations / (seen - 1))
    else:
        per_second = ran.asked / ran.engine_seconds
        seen, spread = ran.asked, variation(seconds_Q)
    idle = max(0.0, ran.engine_seconds - ran.asked / per_second) / runs
    if most_per_second is not None:
        per_second = min(per_second, most_per_second)
    return Throughput(
        per_second=per_second,
        spread=spread,
        seen=seen,
        part=ran.waiting_work / seen if enough else 1.0,
        start_seconds=ran.start_seconds / runs,
        idle_seconds=idle,
        too_slow=not enough,
    )
