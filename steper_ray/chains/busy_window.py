"""The busy window of a run: the part in which all engines were warm and questions were still queued.

Only in the busy window does a short run work at the speed of a long one; see planning/throughput.py.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SLICES: Final = 8
"""Equal parts of the busy window, by which the throughput is seen to vary."""


@dataclass(frozen=True, slots=True)
class BusyWindow:
    """Work done while engines were warm and questions were queued."""

    work: float = 0.0
    """Steps in units of a mean question."""
    seconds: float = 0.0
    """Length of the window, summed over the engines."""
    slices: int = 0
    """SLICES, or 0 without any work in the window."""
    deviations: float = 0.0
    """Sum over the slices of ((work in a slice) / (mean work of a slice) − 1)²."""


def busy_window(
    begun_W: Sequence[float],
    done_W: Sequence[float],
    questions: int,
    first: float,
    last: float,
    ready_A: Sequence[float],
) -> BusyWindow:
    """The busy window of a run.

    begun_W, done_W: (steps,) start and end of each step of all questions
    questions:       number of questions
    first:           when the first question was answered
    last:            when the last question was begun
    ready_A:         (engines,) when each was ready; every engine is taken to warm up as long as the first
    """
    warm = first + max(ready_A) - min(ready_A)
    if last <= warm:
        return BusyWindow()
    length, steps_S = (last - warm) / SLICES, [0.0] * SLICES
    for begun, done in zip(begun_W, done_W, strict=True):
        at = max(0, math.floor((begun - warm) / length))
        while at < SLICES and (start := warm + at * length) < done:
            inside = min(done, start + length) - max(begun, start)
            steps_S[at] += max(0.0, inside) / (done - begun)
            at += 1
    mean = math.fsum(steps_S) / SLICES
    return BusyWindow(
        work=SLICES * mean * questions / len(begun_W),
        seconds=(last - warm) * len(ready_A),
        slices=SLICES if mean else 0,
        deviations=math.fsum((steps / mean - 1) ** 2 for steps in steps_S) if mean else 0.0,
    )


def step_seconds(seconds_S: Sequence[float], elapsed: float) -> tuple[float, ...]:
    """Seconds of each step of a question, scaled so that they sum to the question's elapsed time.

    seconds_S: (steps,) measured seconds of each step; empty if no step was written
    """
    measured = math.fsum(seconds_S)
    if not measured:
        return (elapsed,)
    return tuple(seconds * elapsed / measured for seconds in seconds_S)
