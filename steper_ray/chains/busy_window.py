"""The part of a run in which the engines were warm and questions were waiting: how much work was done in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

SLICES: Final = 8
"""Parts of a run by which its pace is seen to vary."""


@dataclass(frozen=True, slots=True)
class BusyWindow:
    """What was done while engines were warm and questions waited."""

    work: float = 0.0
    """Questions' worth of steps."""
    seconds: float = 0.0
    """How long it was, summed over the engines."""
    slices: int = 0
    """Equal parts of that time, by which the pace is seen to vary."""
    deviations: float = 0.0
    """Sum over them of ((work in a slice) / (mean work of a slice) − 1)²."""


def busy_window(
    begun_W: Sequence[float],
    done_W: Sequence[float],
    questions: int,
    first: float,
    last: float,
    ready_A: Sequence[float],
) -> BusyWindow:
    """What was done while engines were warm and questions waited.

    begun_W, done_W: (pieces of work,) from when until when each was at work: the steps of all questions
    questions:       how many questions those are
    first:           when the first of them was done
    last:            when the last of them was begun
    ready_A:         (engines,) when each was ready; one that is later than the first warms up as long
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
    """How long each piece of a question's work took, all of them together as long as the question.

    seconds_S: (steps,) what is known of each step; empty where nothing was written
    """
    known = math.fsum(seconds_S)
    if not known:
        return (elapsed,)
    return tuple(seconds * elapsed / known for seconds in seconds_S)
