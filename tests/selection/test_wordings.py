"""Words that stand for others, by hand."""

import pytest

from steper_ray.selection.wordings import (
    NAME_ENDINGS,
    NOUN_ENDINGS,
    is_edit,
    is_form,
    peoples,
    respelled,
    state,
    state_code,
)


@pytest.mark.parametrize(
    ("words", "same"),
    [
        ("acme inc", "acme incorporated"),
        ("st louis in sept", "saint louis in september"),
        ("muller", "mueller"),
        ("goring", "goering"),
        ("jager", "jaeger"),
    ],
)
def test_spellings(words: str, same: str) -> None:
    assert respelled(words) == respelled(same)


def test_words_are_written_out_as_wholes() -> None:
    assert respelled("first cost mart") == "first cost mart"


@pytest.mark.parametrize(
    ("word", "other", "expected"),
    [
        ("defence", "defense", True),
        ("labor", "labour", True),
        ("theatre", "theater", True),
        ("hawaii", "hawaii", True),
        ("hawai", "hawaii", True),
        ("qaida", "qaeda", True),
        ("anna", "annas", False),  # too short
        ("centre", "certain", False),
        ("peking", "beijing", False),
        ("washington", "washing", False),
        ("aabbb", "bbaab", False),
    ],
)
def test_one_edit(word: str, other: str, expected: bool) -> None:
    assert is_edit(word, other) is expected
    assert is_edit(other, word) is expected


@pytest.mark.parametrize(
    ("word", "other", "endings", "stem", "expected"),
    [
        ("brit", "british", NAME_ENDINGS, 4, True),
        ("texan", "texas", NAME_ENDINGS, 4, True),
        ("parisian", "paris", NAME_ENDINGS, 4, True),
        ("buddhism", "buddhist", NAME_ENDINGS, 4, True),
        ("john", "johnson", NAME_ENDINGS, 4, False),
        ("ann", "anns", NAME_ENDINGS, 4, False),  # too short
        ("christina", "christian", NAME_ENDINGS, 4, False),
        ("director", "directed", NOUN_ENDINGS, 6, True),
        ("washington", "washing", NOUN_ENDINGS, 6, False),
    ],
)
def test_forms_of_a_word(
    word: str, other: str, endings: frozenset[str], stem: int, expected: bool
) -> None:
    assert is_form(word, other, endings, stem) is expected
    assert is_form(other, word, endings, stem) is expected


def test_countries_and_states() -> None:
    assert "french" in peoples("France")
    assert "english" in peoples("Anglo")
    assert peoples("Kek") == ()
    assert (state("OH"), state("oh"), state("XX")) == ("ohio", None, None)
    assert (state_code("new york"), state_code("kek")) == ("NY", None)
