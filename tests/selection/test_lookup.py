"""Names looked up in what a step could know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.selection.lookup import Source, Text


def spread(words: list[str], passage: list[str]) -> bool:
    """Whether the words stand in a passage of single words with at most two others between any two."""
    places = {place for place, word in enumerate(passage) if word == words[0]}
    for word in words[1:]:
        near = {place + step for place in places for step in (1, 2, 3)}
        places = {place for place in near if passage[place : place + 1] == [word]}
    return bool(places)


@given(
    st.lists(st.sampled_from(["Kek", "Bibro", "Zalk"]), min_size=2, max_size=2),
    st.lists(st.sampled_from(["Kek", "Bibro", "Zalk", "Stumum"]), max_size=12),
)
def test_two_capitalised_words_may_stand_between_two_of_a_name(
    words: list[str], passage: list[str]
) -> None:
    assert Source([Text(" ".join(passage))]).has_name(words) == spread(words, passage)


@pytest.mark.parametrize(
    ("passage", "is_there"),
    [
        ("Kek J. R. Bibro", True),
        ("Kek J.R.Bibro", True),
        ("Kek J. R. S. Bibro", False),
        ("Kek O'Neill-Smith Zalk Bibro, who", True),
        ("(Kek Zalk\n KEK Bibro)", True),
        ("Kek zalk Bibro", False),
        ("Kek, Zalk Bibro", False),
        ("Kek Zalk, Bibro", False),
        ("Kek Zalk (Bibro)", False),
        ("Kek_ Zalk Bibro", False),
        ("Kek Zalk Bibro_", False),
        ("Old-Kek Zalk Bibro-New", True),
    ],
)
def test_what_may_stand_between_two_words_of_a_name(passage: str, is_there: bool) -> None:
    assert Source([Text(passage)]).has_name(["Kek", "Bibro"]) is is_there


def test_words_of_two_parts_are_one_where_the_source_has_them_so() -> None:
    source = Source([Text("Jinri saw Spider-Man in Oahu.")])
    assert source.rejoined("Jin-ri, Spider-Man, O'ahu") == "Jinri, Spider-Man, Oahu"
