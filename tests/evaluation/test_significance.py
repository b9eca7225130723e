import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.errors import InputError
from steper_ray.evaluation.significance import difference_interval, holm, interval, paired_p

# Height of a crossed minus a self-fertilised plant in eighths of an inch, 15 pairs of Darwin's maize.
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def answers(won: int, lost: int, both: int = 3, neither: int = 4) -> tuple[list[int], list[int]]:
    """0/1 scores of a model and a baseline with these numbers of questions of each kind."""
    return (
        [1] * won + [0] * lost + [1] * both + [0] * neither,
        [0] * won + [1] * lost + [1] * both + [0] * neither,
    )


def closed_bonferroni(p_H: list[float]) -> list[float]:
    """Holm's procedure as the closure of Bonferroni's: a hypothesis falls with all its company."""
    hypotheses = range(len(p_H))
    subsets = [
        subset
        for size in range(1, len(p_H) + 1)
        for subset in itertools.combinations(hypotheses, size)
    ]
    return [
        max(
            min(1.0, len(subset) * min(p_H[index] for index in subset))
            for subset in subsets
            if hypothesis in subset
        )
        for hypothesis in hypotheses
    ]


@pytest.mark.parametrize(("won", "lost"), [(1, 0), (5, 0), (3, 3), (9, 2), (4, 12), (15, 1)])
def test_binary_scores_give_mcnemars_exact_test(won: int, lost: int) -> None:
    from scipy import stats

    model, baseline = answers(won, lost)
    expected = stats.binomtest(won, won + lost).pvalue
    assert paired_p([model], [baseline]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("won", "lost"), [(15, 15), (19, 11), (40, 22), (300, 260), (520, 480)])
def test_random_patterns_average_to_mcnemars_exact_test(won: int, lost: int) -> None:
    from scipy import stats

    model, baseline = answers(won, lost)
    exact = stats.binomtest(won, won + lost).pvalue
    p = [paired_p([model], [baseline], seed=seed) for seed in range(10)]
    four_standard_errors = 4 * math.sqrt(exact * (1 - exact) / 1_000_000) + 1e-5
    assert abs(np.mean(p) - exact) < four_standard_errors


def test_fishers_test_of_darwins_maize() -> None:
    # Fisher, The Design of Experiments (1935), section 21: 863 of the 32,768 patterns reach 314.
    assert paired_p([DARWIN], [[0] * 15]) == 2 * 863 / 2**15
    near = paired_p([DARWIN], [[0] * 15], draws=30_000)  # too few to try every pattern
    assert near != 2 * 863 / 2**15
    assert near == pytest.approx(2 * 863 / 2**15, abs=0.005)


def test_graded_scores_against_scipy() -> None:
    from scipy import stats

    rng = np.random.default_rng(7)
    for questions, draws, error in ((12, 5_000, 1e-12), (60, 20_000, 0.015)):
        score_SQ, baseline_SQ = rng.random((3, questions)), rng.random((2, questions))
        expected = stats.permutation_test(
            (score_SQ.mean(axis=0) - baseline_SQ.mean(axis=0),),
            np.mean,
            permutation_type="samples",
            vectorized=True,
            n_resamples=draws,
            batch=1_000,
            rng=1,
        ).pvalue
        assert 0.01 < expected < 0.9
        assert paired_p(score_SQ, baseline_SQ, draws=draws) == pytest.approx(expected, abs=error)


def test_p_is_uniform_when_nothing_distinguishes_the_models() -> None:
    from scipy import stats

    rng = np.random.default_rng(3)
    p = [paired_p(rng.normal(size=(1, 40)), np.zeros((1, 40)), draws=999) for _ in range(500)]
    assert stats.kstest(p, "uniform").pvalue > 0.01


def test_nothing_differs() -> None:
    assert paired_p([[1, 0, 1]], [[1, 0, 1]]) == 1.0
    # The mean of 0.1, 0.2, 0.3 is 0.2 but for rounding.
    tenths = [[0.1] * 5, [0.2] * 5, [0.3] * 5]
    assert np.mean(tenths, axis=0)[0] != 0.2
    assert paired_p(tenths, [[0.2] * 5]) == 1.0


@pytest.mark.parametrize(("won", "lost"), [(9, 4), (19, 11), (40, 22)])
def test_rounding_hides_no_tie(won: int, lost: int) -> None:
    # One seed of three differs, by thirds whose sums are rounded: the ties are those of whole numbers.
    model, baseline = answers(won, lost)
    nothing = [0] * len(model)
    p = paired_p([model, nothing, nothing], [baseline, nothing, nothing])
    assert p == paired_p([model], [baseline])


def test_random_patterns_never_give_zero() -> None:
    from scipy import stats

    model, baseline = answers(200, 50)
    assert stats.binomtest(200, 250).pvalue < 1e-9
    assert paired_p([model], [baseline]) == 1 / 100_001


def test_p_is_the_same_swapped_and_in_any_order() -> None:
    rng = np.random.default_rng(5)
    score_SQ, baseline_SQ = rng.random((2, 50)), rng.random((3, 50))
    order = rng.permutation(50)
    p = paired_p(score_SQ, baseline_SQ)
    assert 0 < p < 1
    assert paired_p(baseline_SQ, score_SQ) == p
    assert paired_p(score_SQ[:, order], baseline_SQ[:, order]) == p
    assert interval(score_SQ[:, order]) == interval(score_SQ)


def test_the_seed_decides() -> None:
    rng = np.random.default_rng(6)
    score_SQ, baseline_SQ = rng.random((2, 50)), rng.random((2, 50))
    assert paired_p(score_SQ, baseline_SQ, seed=4) == paired_p(score_SQ, baseline_SQ, seed=4)
    assert paired_p(score_SQ, baseline_SQ, seed=4) != paired_p(score_SQ, baseline_SQ, seed=5)
    assert interval(score_SQ, seed=4) == interval(score_SQ, seed=4)
    assert interval(score_SQ, seed=4) != interval(score_SQ, seed=5)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_interval_of_many_questions_is_the_normal_one(level: float) -> None:
    from scipy import stats

    score_Q = np.random.default_rng(1).random(2_000)
    error = score_Q.std() / math.sqrt(2_000)
    low, high = stats.norm.interval(level, loc=score_Q.mean(), scale=error)
    assert interval([score_Q], level=level) == pytest.approx((low, high), abs=0.08 * error)


def test_interval_of_two_questions_by_hand() -> None:
    # Means 0, ½ and 1 with chances ¼, ½ and ¼: the middle 40 % is ½, the middle 60 % all.
    assert interval([[0, 1]], level=0.4) == (0.5, 0.5)
    assert interval([[0, 1]], level=0.6) == (0.0, 1.0)
    assert interval([[1, 1, 1]]) == (1.0, 1.0)


def test_interval_of_a_small_share_is_the_binomial_one() -> None:
    # Of 20 questions drawn again, one right among them, as many are right as a binomial says.
    from scipy import stats

    low, high = stats.binom.ppf([0.025, 0.975], 20, 0.05) / 20
    assert (low, high) == (0.0, 0.15)
    assert interval([[1] + [0] * 19]) == pytest.approx((low, high), abs=1e-12)


def test_intervals_cover_the_true_mean_as_often_as_they_say() -> None:
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        hardness_Q = rng.random(100)
        score_SQ = (rng.random((3, 100)) > hardness_Q).astype(float)  # true mean ½
        low, high = interval(score_SQ, draws=500, level=0.9)
        covered += low <= 0.5 <= high
    assert 0.86 < covered / 400 < 0.94  # 0.9 ± 2.7 standard errors


def test_the_seeds_of_a_question_stay_together() -> None:
    # Every seed answers alike: three seeds know no more than one, and no less.
    score_Q = np.random.default_rng(4).integers(0, 2, 60)
    baseline_Q = np.random.default_rng(5).integers(0, 2, 60)
    low, high = interval([score_Q] * 3)
    assert (low, high) == pytest.approx(interval([score_Q]), abs=1e-12)
    low_apart, high_apart = interval([np.tile(score_Q, 3)])
    assert (high - low) / (high_apart - low_apart) == pytest.approx(math.sqrt(3), rel=0.1)
    assert paired_p([score_Q] * 3, [baseline_Q] * 2) == paired_p([score_Q], [baseline_Q])


def test_a_pair_is_drawn_together() -> None:
    rng = np.random.default_rng(8)
    baseline_Q = rng.random(500)
    score_Q = baseline_Q + rng.normal(0.02, 0.05, 500)
    error = (score_Q - baseline_Q).std() / math.sqrt(500)
    mean = (score_Q - baseline_Q).mean()
    low, high = difference_interval([score_Q], [baseline_Q, baseline_Q])
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=0.1 * error)
    # Two separate draws would have the spread of both: some eight times as wide.
    apart = math.sqrt(score_Q.var() + baseline_Q.var()) / math.sqrt(500)
    assert 2 * 1.96 * apart > 6 * (high - low)
    assert difference_interval([score_Q], [score_Q]) == (0.0, 0.0)


def test_holm_by_hand() -> None:
    # In order 0.005·4, 0.01·3, 0.03·2, and 0.04·1, which may not fall below the one before.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5, 0.02]) == pytest.approx([1.0, 1.0, 0.06])
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([0.3]) == [0.3]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_bonferroni_closed(p_H: list[float]) -> None:
    assert holm(p_H) == pytest.approx(closed_bonferroni(p_H), abs=1e-15)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_holm_names_what_is_no_p_value(p: float) -> None:
    with pytest.raises(InputError, match=f"p-value 2 is {p}"):
        holm([0.5, p])


@pytest.mark.parametrize(
    ("score_SQ", "said"),
    [
        ([0.5, 0.5], r"shape \(2,\)"),
        ([[]], r"shape \(1, 0\)"),
        ([[0.5, 1.0], [0.5]], "no table of numbers"),
        ([["right", "wrong"]], "no table of numbers"),
        ([[0.5, 1.0], [0.5, math.nan]], r"score_SQ\[1, 1\] is nan"),
    ],
)
def test_what_is_no_table_is_named(score_SQ: list[list[float]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        interval(score_SQ)
    with pytest.raises(InputError, match=said):
        paired_p(score_SQ, [[0.0, 1.0]])


def test_different_questions_are_an_error() -> None:
    with pytest.raises(InputError, match="3 questions, baseline_SQ 2"):
        paired_p([[0, 1, 1]], [[0, 1]])
    with pytest.raises(InputError, match="3 questions, baseline_SQ 2"):
        difference_interval([[0, 1, 1]], [[0, 1]])


def test_one_question_has_no_interval_but_a_p() -> None:
    with pytest.raises(InputError, match="at least two questions"):
        interval([[1], [0]])
    assert paired_p([[1]], [[0]]) == 1.0
