"""A sum over many questions, predicted from some that were drawn at random.

What is there is counted; of what is left, each question is expected to bring the sample's mean. The
interval is the one that holds the sum of the questions left, not just the mean of all that could be asked:
with mean x̄ and variance s² over n questions, `left` further ones bring

    left·x̄ ± t(n−1) · left · s · √(1/n + 1/left)

It says what other questions would have done, not what another day on other machines would.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final, TypeVar

LEVEL: Final = 0.95


Group = TypeVar("Group")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number, and how far off it may be."""

    value: float
    margin: float | None
    """Half of its 95 % interval; None where the sample is too small to tell."""

    @property
    def interval(self) -> tuple[float, float] | tuple[None, None]:
        """Both ends of it; what is counted here is never below 0."""
        if self.margin is None:
            return None, None
        return max(0.0, self.value - self.margin), self.value + self.margin

    def __add__(self, other: "Estimate") -> "Estimate":
        """Of two that have nothing to do with one another."""
        both = None
        if self.margin is not None and other.margin is not None:
            both = math.hypot(self.margin, other.margin)
        return Estimate(self.value + other.value, both)

    def times(self, factor: float) -> "Estimate":
        """So many times as much."""
        margin = None if self.margin is None else self.margin * factor
        return Estimate(self.value * factor, margin)


def predict(
    value_Q: Sequence[float], left: float, there: float = 0.0, *, most: float | None = None
) -> Estimate | None:
    """The sum over the questions there and those left; None where some are left and none was sampled.

    value_Q: (questions,) of the sample
    left:    how many questions are still to come
    there:   the sum over those that are done
    most:    what a question can bring at most, where that is known. A sample in which all are alike then
             does not claim that all others are: its variance is taken with two questions more that bring
             nothing and two that bring the most (Agresti & Coull, The American Statistician 52, 1998).
    """
    if left <= 0:
        return Estimate(there, 0.0)
    if not value_Q:
        return None
    value, questions = there + left * fmean(value_Q), len(value_Q)
    if questions < 2:
        return Estimate(value, None)
    varied = [*value_Q] if most is None else [*value_Q, 0.0, 0.0, most, most]
    unsure = stdev(varied) * math.sqrt(1 / questions + 1 / left)
    return Estimate(value, student_t(questions - 1) * left * unsure)


def cap(groups: Mapping[Group, Estimate], per_group: int | str | None) -> Estimate:
    """How many are kept of all groups if no group keeps more than its share; see `select.per_hops`.

    per_group: a number, `equal` for as many as there are of the rarest, None for all

    All groups may be off by their margin at once, so this interval is rather too wide.
    """
    if any(one.margin is None for one in groups.values()):
        return Estimate(_capped([one.value for one in groups.values()], per_group), None)
    value, low, high = (
        _capped(
            [max(0.0, one.value + side * (one.margin or 0.0)) for one in groups.values()], per_group
        )
        for side in (0, -1, 1)
    )
    return Estimate(value, max(value - low, high - value))


def _capped(counts: Sequence[float], per_group: int | str | None) -> float:
    if per_group is None or not counts:
        return math.fsum(counts)
    share = min(counts) if isinstance(per_group, str) else per_group
    return math.fsum(min(count, share) for count in counts)


def variation(value_Q: Sequence[float]) -> float:
    """Coefficient of variation; 0 of less than two values, or of none above 0."""
    mean = fmean(value_Q) if value_Q else 0.0
    return stdev(value_Q) / mean if len(value_Q) > 1 and mean > 0 else 0.0


def student_t(freedom: float) -> float:
    """The quantile of Student's t that bounds a 95 % interval."""
    from scipy.special import stdtrit

    return float(stdtrit(max(1.0, freedom), 0.5 + LEVEL / 2))
