"""Estimates of sums by hand, and the coverage of their intervals in simulations."""

import random

import pytest

from steper_ray.planning.estimate import Estimate, cap, predict


def test_a_sum_over_the_questions_left_by_hand() -> None:
    # mean 2, s = √2, t(1) = 12.706
    found = predict([1.0, 3.0], 4, 10.0)
    assert found is not None
    assert found.value == 10 + 4 * 2
    assert found.margin == pytest.approx(12.706 * 4 * 2**0.5 * (1 / 2 + 1 / 4) ** 0.5, rel=1e-4)
    assert found.interval[0] == 0.0
    assert predict([1.0, 3.0], 0, 10.0) == Estimate(10.0, 0.0)
    assert predict([2.0], 4, 10.0) == Estimate(18.0, None)
    assert predict([], 4, 10.0) is None


def test_a_sample_in_which_all_are_kept_does_not_claim_that_all_are() -> None:
    # with 0, 0, 1, 1 beside four ones: variance 8 · 0.1875 / 7, t(3) = 3.1824
    found = predict([1.0] * 4, 4, bound=1.0)
    assert found is not None
    assert found.value == 4
    assert found.margin == pytest.approx(3.1824 * 4 * (1.5 / 7) ** 0.5 * 0.5**0.5, rel=1e-4)


def test_intervals_hold_what_they_say() -> None:
    drawn, held = random.Random(0), 0
    for _ in range(1000):
        everything = [drawn.expovariate(1.0) for _ in range(200)]
        found = predict(everything[:64], 136, sum(everything[:64]))
        assert found is not None
        low, high = found.interval
        assert low is not None
        assert high is not None
        held += low <= sum(everything) <= high
    assert 930 <= held <= 970


@pytest.mark.parametrize(
    ("share", "value", "margin"), [(None, 14, 3), ("equal", 8, 2), (5, 9, 1), (1, 2, 0)]
)
def test_no_hop_count_keeps_more_than_its_share(share, value, margin) -> None:
    assert cap({2: Estimate(10, 2), 3: Estimate(4, 1)}, share) == Estimate(value, margin)
