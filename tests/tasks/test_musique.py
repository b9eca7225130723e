"""MuSiQue's F1 by hand, and that everything else is as in `qa`."""

import pytest

from steper_ray.schema import Question
from steper_ray.tasks import musique, qa


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        # 1 of 2 given, 1 of 1 gold: 2 · ½ · 1 / (½ + 1); HotpotQA's script says 0
        ("yes, both", ["yes"], 2 / 3),
        ("no", ["yes"], 0.0),
        ("Yes!", ["yes"], 1.0),
        # 2 of 3, 2 of 2
        ("Eiffel Tower, Paris", ["the Eiffel Tower"], 0.8),
        # nothing is equal to nothing; HotpotQA's script says 0
        ("", ["The"], 1.0),
        ("", ["fox"], 0.0),
        ("fox", [""], 0.0),
        ("fox", ["hill", "fox sea"], 2 / 3),
        ("fox", [], 0.0),
    ],
)
def test_f1(answer: str, golds: list[str], expected: float) -> None:
    assert musique.f1(answer, golds) == pytest.approx(expected)


def test_the_other_scores_are_those_of_qa() -> None:
    asked = Question("q1", "Is it?", "yes", ("no",))
    ours, theirs = musique.score("yes, both", asked), qa.score("yes, both", asked)
    assert (ours["f1"], theirs["f1"]) == (pytest.approx(2 / 3), 0.0)
    assert {**ours, "f1": theirs["f1"]} == theirs
