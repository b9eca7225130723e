"""Estimate of a sum over many questions from a random sample of them.

Finished questions are counted; each remaining one is expected to bring the sample's mean. The interval is a
prediction interval for the sum over the remaining questions, not a confidence interval for the mean: with
mean x̄ and variance s² over n sampled questions, m remaining ones bring

    m·x̄ ± t(n−1) · m · s · √(1/n + 1/m)

The interval covers the choice of questions, not the speed of other machines on another day.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final, TypeVar

LEVEL: Final = 0.95
"""Coverage of every interval."""


Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the margin of its interval."""

    value: float
    margin: float | None
    """Half of the 95 % interval; None if the sample is too small for one."""

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Both ends of the interval, the lower one at least 0, as counts are."""
        if self.margin is None:
            return None, None
        return max(0.0, self.value - self.margin), self.value + self.margin

    def __add__(self, other: "Estimate") -> "Estimate":
        """Sum of two independent estimates."""
        both = None
        if self.margin is not None and other.margin is not None:
            both = math.hypot(self.margin, other.margin)
        return Estimate(self.value + other.value, both)

    def times(self, factor: float) -> "Estimate":
        """The estimate scaled by a factor."""
        margin = None if self.margin is None else self.margin * factor
        return Estimate(self.value * factor, margin)


def predict(
    value_Q: Sequence[float],
    remaining: float,
    finished: float = 0.0,
    *,
    bound: float | None = None,
) -> Estimate | None:
    """Sum over finished and remaining questions; None if questions remain and none was sampled.

    value_Q:   (questions,) values of the sample
    remaining: number of remaining questions
    finished:  sum over the finished questions
    bound:     largest value of a question, if there is one. So that a sample of equal values does not claim
               that all others are equal, its variance is then taken with two more questions of value 0 and
               two of value `bound` (Agresti & Coull, The American Statistician 52, 1998).
    """
    if remaining <= 0:
        return Estimate(finished, 0.0)
    if not value_Q:
        return None
    value, questions = finished + remaining * fmean(value_Q), len(value_Q)
    if questions < 2:
        return Estimate(value, None)
    varied = [*value_Q] if bound is None else [*value_Q, 0.0, 0.0, bound, bound]
    unsure = stdev(varied) * math.sqrt(1 / questions + 1 / remaining)
    return Estimate(value, student_t(questions - 1) * remaining * unsure)


def cap(groups: Mapping[Group, Estimate], per_group: int | str | None) -> Estimate:
    """Number of kept chains if no group keeps more than its share; see `select.per_hops`.

    per_group: a number, `equal` for the size of the smallest group, None for all

    The ends of the interval have all groups off by their margins at once, so it is rather too wide.
    """
    if any(group.margin is None for group in groups.values()):
        return Estimate(_capped([group.value for group in groups.values()], per_group), None)
    value, low, high = (
        _capped(
            [max(0.0, group.value + side * (group.margin or 0.0)) for group in groups.values()],
            per_group,
        )
        for side in (0, -1, 1)
    )
    return Estimate(value, max(value - low, high - value))


def _capped(counts: Sequence[float], per_group: int | str | None) -> float:
    if per_group is None or not counts:
        return math.fsum(counts)
    share = group_share(counts, per_group)
    return math.fsum(min(count, share) for count in counts)


def group_share(counts: Sequence[float], per_group: int | str) -> float:
    """Upper bound for each group: the number, or the smallest group for `equal`."""
    return min(counts, default=0.0) if isinstance(per_group, str) else per_group


def variation(value_Q: Sequence[float]) -> float:
    """Coefficient of variation; 0 for fewer than two values, or a mean of 0."""
    mean = fmean(value_Q) if value_Q else 0.0
    return stdev(value_Q) / mean if len(value_Q) > 1 and mean > 0 else 0.0


def student_t(freedom: float) -> float:
    """Quantile of Student's t that bounds a 95 % interval."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1.0, freedom), 0.5 + LEVEL / 2))
