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
    ("–", "—"),
    # Signs and units
    ("- 5", "-5"),
    ("-$5", "$−5"),
    ("- $5", "−$5"),
    ("$5", "5"),
    ("€5", "5 €"),
    ("5%", "5"),
    ("5％", "5 ٪"),
    ("3 : 2", "3:2"),
    ("well-known -", "well-known"),
    ("Paris –", "Paris"),
    # Digits and how they are separated
    ("٣٫٥", "3.5"),
    ("٢٠٬٠٠٠", "20,000"),
    ("20 000", "20,000"),
    ("20\u00a0000", "20,000"),
    ("20\u202f000", "20,000"),
    ("20\u2009000.50", "20,000.50"),
    ("1'000", "1,000"),
    ("1’234’567", "1234567"),
    ("½", "1/2"),
    ("1½", "1 1/2"),
    ("5'11\"", "5′11″"),
    ("1990’s", "1990s"),
    # Look-alikes, and what is not seen
    ("O\u02bcNeill", "O'Neill"),
    ("Hawai\u02bbi", "Hawai'i"),
    ("O´Neill", "O`Neill"),
    ("5˚C", "5ºC"),
    ("5 ℃", "5°C"),
    ("Windows™ 10", "Windows 10"),
    ("Lego®", "Lego"),
    ("AC⁄DC", "AC/DC"),
    ("❤\ufe0f", "❤"),
    ("葛\U000e0100城", "葛城"),
    ("5\u2066\u20695", "55"),
    ("مح\u0640مد", "محمد"),
    ("القَاهِرَة", "القاهرة"),
    ("שָׁלוֹם", "שלום"),
    ("IŞIK", "ışık"),
    # Words
    ("Mary & John", "Mary and John"),
    ("R&amp;B", "R and B"),
    ('the "Times"', '"Times"'),
    ("A Tale of a City", "Tale of City"),
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
    # Signs and units
    ("-$5", "$5"),
    ("- $5", "$5"),
    ("-€5", "€5"),
    ("- 5", "5"),
    ("−∞", "∞"),
    ("$5", "€5"),
    ("$5 million", "€5 million"),
    ("5%", "5‰"),
    ("5%", "50‰"),
    ("5′", "5″"),
    ("A-", "A"),
    ("A-", "A+"),
    ("blood type O−", "blood type O"),
    ("Cl-", "Cl"),
    ("1:2", "1/2"),
    ("9/11", "9-11"),
    # Digits and how they are separated
    ("٣٫٥", "3:5"),
    ("٣٫٥", "3 5"),
    ("0,500", "0500"),
    ("1 000 00", "100000"),
    ("1990 000", "1990000"),
    ("12345,678", "12345678"),
    ("1½", "11/2"),
    # Articles stand before a word
    ("Hepatitis A", "Hepatitis"),
    ("Serie A", "Serie"),
    ("A/C", "C"),
    ("A, B", "B"),
    ("the U.S.A team", "the U.S. team"),
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
