"""How sure a score is, and whether two models that answered the same questions differ.

The question is the unit drawn: a question's answers under several seeds resemble each other, so they
are averaged first and move together. Seeds are taken as given: an interval says how the score would
vary with other questions, not with other seeds.

A thousand questions take 0.1 to 0.2 s, for an interval as for a p-value; the first interval also
imports scipy.stats, which may take seconds.

Papers: Efron & Tibshirani, An Introduction to the Bootstrap (1993), chapter 13 (percentile interval);
Noreen, Computer-Intensive Methods for Testing Hypotheses (1989), and for NLP Yeh, COLING 2000 (paired
randomisation test); Holm, Scandinavian Journal of Statistics 6 (1979), 65–70 (several tests at once).

Shape suffixes: S seeds · Q questions · N questions on which the models differ · H hypotheses ·
D draws.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from steper_ray.errors import InputError

Floats = np.ndarray[Any, np.dtype[np.float64]]


BATCH_VALUES: Final = 1_000_000
"""Resampled scores held at once, 8 bytes each, and as much again for their indices."""


FLIP_BLOCK: Final = 8
"""Differences whose signs are drawn together: one of 2⁸ sums instead of eight signs."""


ROUNDING: Final = 1e-12
"""Relative size below which a difference is the rounding of a mean over seeds."""


def interval(
    score_SQ: npt.ArrayLike, *, draws: int = 10_000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean score (Efron & Tibshirani 1993, chapter 13).

    score_SQ: (seeds, questions), any unit; level: share of such intervals that hold the true mean

    The order of the questions does not matter. Raises InputError for scores that are no such table,
    and for fewer than two questions, which say nothing of how questions vary.
    """
    return _bootstrap(_question_means(score_SQ, "score_SQ"), draws, level, seed)


def difference_interval(
    score_SQ: npt.ArrayLike,
    baseline_SQ: npt.ArrayLike,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of score − baseline over the same questions.

    Arguments as for `paired_p`; both scores of a question are drawn together, so what makes a
    question hard for both cancels. Raises InputError as `paired_p` and `interval` do.
    """
    return _bootstrap(_differences(score_SQ, baseline_SQ), draws, level, seed)


def paired_p(
    score_SQ: npt.ArrayLike, baseline_SQ: npt.ArrayLike, *, draws: int = 100_000, seed: int = 0
) -> float:
    """Two-sided p-value of the paired randomisation test (Noreen 1989; Yeh 2000).

    score_SQ, baseline_SQ: (seeds, questions), the questions in the same order; the numbers of seeds
    may differ.

    If the models were interchangeable on every question, each difference could as well have had the
    other sign: p is the share of sign patterns whose mean is at least as far from 0 as the one seen.
    Exact where there are at most `draws` patterns, and then on 0/1 scores of one seed the exact test
    of McNemar. Else from `draws` random patterns, the one seen counted among them, so p is at least
    1 / (draws + 1). 1.0 where nothing differs.

    Raises InputError for scores that are no such tables, or tables of different questions.
    """
    assert draws > 0
    difference_Q = _differences(score_SQ, baseline_SQ)
    difference_N = difference_Q[difference_Q != 0]
    if not difference_N.size:
        return 1.0
    size_N = np.sort(np.abs(difference_N))  # the same p in any order, and with the models swapped
    seen = abs(float(difference_N.sum())) - ROUNDING * float(size_N.sum())
    # scipy.stats.permutation_test flips sign by sign in Python: seconds where this takes 0.05 s.
    if 2**size_N.size <= draws:
        return float(np.mean(np.abs(_signed_sums(size_N)) >= seen))
    rng = np.random.default_rng(seed)
    sum_D = np.zeros(draws)
    for start in range(0, size_N.size, FLIP_BLOCK):
        sum_D += rng.choice(_signed_sums(size_N[start : start + FLIP_BLOCK]), size=draws)
    return float((np.count_nonzero(np.abs(sum_D) >= seen) + 1) / (draws + 1))


def holm(p_H: Sequence[float]) -> list[float]:
    """Step-down adjusted p-values, in the given order (Holm 1979).

    Rejecting those at most α keeps the chance of any false rejection at most α, however the tests
    depend on each other. Raises InputError for a p-value outside [0, 1].
    """
    for number, p in enumerate(p_H, 1):
        if not 0 <= p <= 1:
            raise InputError(f"p-value {number} is {p}; give p-values between 0 and 1")
    adjusted_H = [0.0] * len(p_H)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_H)), key=lambda index: p_H[index])):
        highest = max(highest, min(1.0, (len(p_H) - rank) * float(p_H[index])))
        adjusted_H[index] = highest
    return adjusted_H


def _question_means(score_SQ: npt.ArrayLike, name: str) -> Floats:
    """(questions,) means over the seeds."""
    try:
        table_SQ = np.asarray(score_SQ, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} is no table of numbers; give one row a seed, each with every question"
        ) from error
    if table_SQ.ndim != 2 or not table_SQ.size:
        raise InputError(
            f"{name} has shape {table_SQ.shape}; give (seeds, questions), at least one of each"
        )
    if not np.isfinite(table_SQ).all():
        seed, question = np.argwhere(~np.isfinite(table_SQ))[0]
        raise InputError(
            f"{name}[{seed}, {question}] is {table_SQ[seed, question]}; score every question"
        )
    return np.asarray(table_SQ.mean(axis=0))


def _differences(score_SQ: npt.ArrayLike, baseline_SQ: npt.ArrayLike) -> Floats:
    """(questions,) score − baseline, means over the seeds first; 0 where only rounding differs."""
    score_Q = _question_means(score_SQ, "score_SQ")
    baseline_Q = _question_means(baseline_SQ, "baseline_SQ")
    if score_Q.size != baseline_Q.size:
        raise InputError(
            f"score_SQ has {score_Q.size} questions, baseline_SQ {baseline_Q.size};"
            " give both models' scores on the same questions, in the same order"
        )
    difference_Q = score_Q - baseline_Q
    scale_Q = np.maximum(np.abs(score_Q), np.abs(baseline_Q))
    return np.where(np.abs(difference_Q) > ROUNDING * scale_Q, difference_Q, 0.0)


def _bootstrap(value_Q: Floats, draws: int, level: float, seed: int) -> tuple[float, float]:
    from scipy import stats  # type: ignore[import-untyped, unused-ignore]

    assert draws > 0
    assert 0 < level < 1
    if value_Q.size < 2:
        raise InputError("an interval over 1 question; give at least two questions")
    limits = stats.bootstrap(
        (np.sort(value_Q),),
        np.mean,
        n_resamples=draws,
        batch=max(1, BATCH_VALUES // value_Q.size),
        vectorized=True,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(limits.low), float(limits.high)


def _signed_sums(size_N: Floats) -> Floats:
    """(2^N,) sum of the sizes under every pattern of signs."""
    sums = np.zeros(1)
    for size in size_N:
        sums = np.concatenate((sums - size, sums + size))
    return sums
