"""Two models on the same questions, against hand-worked numbers."""

from typing import Any

import pytest

from steper_ray.evaluation.pairs import Pair, f1_interval, pair_text, pairs_of


def rows(right: str) -> list[dict[str, Any]]:
    """One row a question: `1` is right, `0` wrong."""
    return [{"em": float(one), "f1": float(one), "error": None} for one in right]


def test_every_two_models_are_compared_and_p_is_that_of_mcnemar_times_the_pairs() -> None:
    chains = {"a": rows("11111111"), "b": rows("00000011"), "c": rows("11111110")}
    first, second, third = pairs_of(chains)
    assert [(pair.model, pair.other) for pair in (first, second, third)] == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    assert (first.questions, first.difference) == (8, 0.75)
    # six questions differ, all one way: 2 / 2**6, and three pairs
    assert first.p == pytest.approx(3 * 2 / 64)
    assert second.p == 1.0  # one question differs
    # seven differ, six of them one way: 2 * (1 + 7) / 2**7, the second smallest of three
    assert third.p == pytest.approx(2 * 16 / 128)
    assert first.interval[0] > 0
    assert pairs_of({"a": rows("1"), "b": rows("0")}) == ()
    assert pairs_of({"a": rows("10")}) == ()


def test_what_the_questions_do_not_tell_is_said() -> None:
    near = Pair("student", "teacher", 300, -0.02, (-0.05, 0.01), 0.24)
    assert pair_text(near) == (
        "student 2.0 points below teacher (-1.0 to 5.0, p 0.24): 300 questions do not tell them apart"
    )
    far = Pair("student", "base", 300, 0.9, (0.85, 0.94), 3e-5)
    assert pair_text(far) == "student 90.0 points above base (85.0 to 94.0, p 3e-05)"


def test_an_error_is_an_f1_of_zero() -> None:
    failed = {"em": 1.0, "f1": 1.0, "error": "engine died"}
    assert f1_interval([failed, failed]) == (0.0, 0.0)
    (pair,) = pairs_of({"a": [failed, failed], "b": rows("11")})
    assert pair.difference == -1.0
    assert "(100.0 to 100.0" in pair_text(pair)
    assert "-0.0" not in pair_text(Pair("a", "b", 9, -0.1, (-0.3, 0.0), 0.2))
    assert f1_interval([failed]) is None
