"""Answers that are the same to a reader, and answers that are not, in any script."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.tasks.matching import is_same_answer, matched_text
from steper_ray.tasks.qa import exact_match

SAME = [
    ("Paris", "paris."),
    ("the Beatles", "The Beatles"),
    ("The The", "the the"),
    ("“Heroes”", '"Heroes"'),
    ("O’Neill", "O'Neill"),
    ("Spider-Man", "Spider‑Man"),
    ("Spider-Man", "Spider Man"),
    ("J. R. R. Tolkien", "J.R.R. Tolkien"),
    ("U.S.", "US"),
    ("Washington, D.C.", "Washington D.C"),
    ("1990–1995", "1990-1995"),
    ("1990 – 1995", "1990-1995"),
    ("1,234,567", "1234567"),
    ("12,34,567", "1234567"),
    ("−5", "-5"),
    ("3.5.", "3.5"),
    ("１２３ＡＢＣ", "123abc"),
    ("東京。", "東京"),
    ("「東京」", "東京"),
    ("서울\u200b", "서울"),
    ("٣٥", "35"),
    ("Besanc\u0327on", "Besançon"),
    ("AT&amp;T", "AT&T"),
    ("so\u00adft", "soft"),
    ("Straße", "STRASSE"),
    ("5 °C", "5°C"),
    ("yes", "Yes!"),
    ("A", "a"),
    ("!!!", "!!!"),
]
OTHERS = [
    ("3.5", "35"),
    ("3,5", "35"),
    ("−5", "5"),
    ("-.5", ".5"),
    ("5²", "52"),
    ("7:30", "730"),
    ("1 2", "12"),
    ("1990-1995", "19901995"),
    ("C++", "C"),
    ("C#", "C"),
    ("กี", "กิ"),
    ("कि", "का"),
    ("東京", "京都"),
    ("Beyoncé", "Beyonce"),
    ("", "Paris"),
    ("!!!", "???"),
    ("no", "yes"),
    ("Paris", "Paris, Texas"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_the_same_to_a_reader(one: str, other: str) -> None:
    assert is_same_answer(one, ["nothing", other])
    assert is_same_answer(other, [one])


@pytest.mark.parametrize(("one", "other"), OTHERS)
def test_not_the_same(one: str, other: str) -> None:
    assert not is_same_answer(one, [other])
    assert not is_same_answer(other, [one, "nothing"])


def test_the_official_match_knows_ascii_punctuation_alone() -> None:
    assert exact_match("3.5", ["35"]) == 1.0
    assert exact_match("東京。", ["東京"]) == 0.0


@given(st.text())
def test_any_text_is_the_same_as_itself(text: str) -> None:
    assert is_same_answer(text, [text])
    assert matched_text(f" {text} ") == matched_text(text)
