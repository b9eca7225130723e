"""Throughput by hand, and of a short run against a simulated long one."""

import random
from collections.abc import Sequence
from statistics import fmean

import pytest

from steper_ray.chains.busy_window import BusyWindow, busy_window, step_seconds
from steper_ray.chains.usage import EngineUsage
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.throughput import estimate_throughput


def test_only_what_warm_engines_write_while_others_wait_counts() -> None:
    # Two questions of two steps, the first done at 4, and one of one step, begun at 5. Between, half a step
    # of the second one is written; a question is worth 5/3 steps. A second engine is ready at once too.
    begun, done = [0, 2, 2, 4, 5], [2, 4, 4, 6, 7]

    def found(ready: list[float]) -> tuple[float, float]:
        waiting = busy_window(begun, done, 3, 4, 5, ready)
        return waiting.work, waiting.seconds

    assert found([0]) == (pytest.approx(0.5 * 3 / 5), 1)
    assert found([0, 0]) == (pytest.approx(0.5 * 3 / 5), 2)
    # An engine that is ready half a second later is warm half a second later.
    assert found([0, 0.5]) == (pytest.approx(0.25 * 3 / 5), 1)
    assert found([0, 1]) == (0, 0)
    assert busy_window([0], [2], 1, 2, 0, [0]) == BusyWindow()


def test_how_the_pace_varies_by_hand() -> None:
    # eight slices of a second; in the first four a step each, in the others two each
    halves = [4.0, 4.5, 5.0, 5.5, 6.0, 6.5, 7.0, 7.5]
    begun = [0.0, 1.0, 2.0, 3.0, *halves]
    done = [1.0, 2.0, 3.0, 4.0, *(half + 0.5 for half in halves)]
    waiting = busy_window(begun, done, 12, 0.0, 8.0, [0.0])
    assert (waiting.work, waiting.seconds, waiting.slices) == (12, 8, 8)
    assert waiting.deviations == pytest.approx(8 * (0.5 / 1.5) ** 2)


def test_the_pieces_of_a_question_last_as_long_as_it() -> None:
    assert step_seconds([1.0, 3.0], 8.0) == (2.0, 6.0)
    assert step_seconds([], 8.0) == (8.0,)


def crowded(work_Q: Sequence[int], places: int, cold: int) -> tuple[EngineUsage, list[float]]:
    """Questions of so many steps on an engine that writes one step a second, shared by those in it.

    cold: steps that it needs twice the time for at first
    """
    waiting, inside = list(enumerate(work_Q)), dict[int, list[float]]()
    now, begun, written = 0.0, dict[int, float](), [list[float]() for _ in work_Q]
    while waiting or inside:
        while waiting and len(inside) < places:
            number, steps = waiting.pop(0)
            inside[number], begun[number] = [1.0] * steps, now
        passed = min(left[0] for left in inside.values()) * len(inside)
        now += 2 * passed if sum(map(len, written)) < cold else passed
        for left in inside.values():
            left[0] -= passed / len(inside)
        for number, left in list(inside.items()):
            if left[0] < 1e-9:
                left.pop(0)
                written[number].append(now)
                if not left:
                    del inside[number]
    starts = [at for n, ends in enumerate(written) for at in (begun[n], *ends[:-1])]
    ends = [end for ends in written for end in ends]
    first = min(one[-1] for one in written)
    pace = busy_window(starts, ends, len(work_Q), first, max(begun.values()), [0.0])
    ran = EngineUsage(
        asked=len(work_Q),
        engine_seconds=now,
        waiting_work=pace.work,
        waiting_seconds=pace.seconds,
        waiting_slices=pace.slices,
        waiting_deviations=pace.deviations,
    )
    return ran, [written[n][-1] - begun[n] for n in range(len(work_Q))]


def test_the_pace_of_a_long_run_is_seen_in_a_short_one() -> None:
    drawn, off, whole = random.Random(5), list[float](), list[float]()
    for _ in range(40):
        work = [drawn.randint(1, 5) for _ in range(64)]
        ran, seconds = crowded(work, 32, cold=20)
        pace = estimate_throughput(ran, seconds, engines=1)
        assert pace is not None
        assert not pace.includes_idle
        off.append(pace.per_second * 3.0 - 1)  # a step a second, three steps a question
        whole.append(ran.asked / ran.engine_seconds * 3.0 - 1)
    assert abs(fmean(off)) < 0.03
    assert fmean(whole) < -0.08


def test_a_pace_by_hand() -> None:
    ran = EngineUsage(
        asked=30,
        engine_seconds=20,
        start_seconds=5,
        waiting_work=20,
        waiting_seconds=10,
        waiting_slices=8,
        waiting_deviations=0.28,
    )
    pace = estimate_throughput(ran, [], engines=1)
    assert pace is not None
    assert (pace.per_second, pace.idle_seconds, pace.start_seconds) == (2.0, 5.0, 5.0)
    # between eight slices of 2.5 questions each √(0.28 / 7) = 0.2, t(7) = 2.3646
    hourly = pace.every(3600)
    assert hourly.value == 7200
    assert hourly.margin == pytest.approx(7200 * 2.3646 * 0.2 / 8**0.5, rel=1e-4)
    whole = pace.seconds(100)
    assert whole.value == 5 + 100 / 2 + 5
    assert whole.margin == pytest.approx(50 * 2.3646 * 0.2 * (1 / 8 + 1 / 40) ** 0.5, rel=1e-4)
    assert pace.seconds(0) == Estimate(0, 0)

    three = estimate_throughput(ran, [], engines=3)
    assert three is not None
    assert three.per_second == 6.0
    limited = estimate_throughput(ran, [], engines=1, max_per_second=0.5)
    assert limited is not None
    assert (limited.per_second, limited.idle_seconds) == (0.5, 5.0)


def test_without_others_waiting_the_pace_is_that_of_the_whole_run_and_says_so() -> None:
    ran = EngineUsage(asked=30, engine_seconds=20, waiting_work=3, waiting_seconds=1)
    pace = estimate_throughput(ran, [1.0], engines=1)
    assert pace is not None
    assert (pace.includes_idle, pace.per_second, pace.idle_seconds) == (True, 1.5, 0.0)
    assert estimate_throughput(EngineUsage(), [], engines=1) is None
