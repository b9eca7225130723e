"""Values worked out by hand from HotpotQA's `hotpot_evaluate_v1.py`."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.tasks.qa import accuracy, contains, exact_match, f1, normalize

WORDS = st.lists(st.sampled_from(["red", "fox", "hill", "sea", "old", "yes"]), max_size=6)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Beatles", "beatles"),
        ("  New   York\tCity\n", "new york city"),
        ("Spider-Man", "spiderman"),
        ("U.S.A.", "usa"),
        # Punctuation goes before the articles, so what it leaves can be one.
        ("A.", ""),
        ("t.h.e. end", "end"),
        ("an apple a day", "apple day"),
        ("theatre", "theatre"),
        ("Beyoncé", "beyoncé"),
        ("ÅNGSTRÖM", "ångström"),
        # Only ASCII punctuation is deleted; the dash stays, and bounds the article after it.
        ("1914–1918", "1914–1918"),
        ("x–the–y", "x– –y"),
        ("no-break\u00a0space", "nobreak space"),
        ("", ""),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("the Eiffel Tower.", ["Eiffel Tower"], 1.0),
        ("Eiffel Tower, Paris", ["Eiffel Tower"], 0.0),
        ("NYC", ["New York City", "N.Y.C."], 1.0),
        ("yes", ["Yes."], 1.0),
        ("", ["Paris"], 0.0),
        ("", ["The"], 1.0),
        ("Paris", [], 0.0),
    ],
)
def test_exact_match(answer: str, golds: list[str], expected: float) -> None:
    assert exact_match(answer, golds) == expected


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        # 2 of 3 given, 2 of 2 gold: 2 · ⅔ · 1 / (⅔ + 1)
        ("Eiffel Tower, Paris", ["the Eiffel Tower"], 0.8),
        # 1 of 4, 1 of 2: 2 · ¼ · ½ / ¾
        ("red fox hill sea", ["old fox"], 1 / 3),
        # fox counts twice at most as often as gold has it: 2 of 3, 2 of 2
        ("fox fox fox", ["fox fox"], 0.8),
        # 1 of 3, 1 of 1
        ("fox fox fox", ["fox"], 0.5),
        ("fox hill", ["hill fox"], 1.0),
        ("sea", ["fox"], 0.0),
        # yes, no and noanswer are all or nothing, on either side
        ("yes it is", ["yes"], 0.0),
        ("yes", ["yes it is"], 0.0),
        ("no", ["yes"], 0.0),
        ("noanswer", ["noanswer given"], 0.0),
        ("Yes!", ["yes"], 1.0),
        # ... but only when it is the whole answer
        ("oh yes indeed", ["yes indeed"], 0.8),
        ("", ["fox"], 0.0),
        ("fox", [""], 0.0),
        ("", [""], 0.0),
        ("fox", [], 0.0),
        # the best alias: 0, ⅔ (1 of 1, 1 of 2) and 0.5 (1 of 1, 1 of 3)
        ("fox", ["sea", "old fox", "red old fox"], 2 / 3),
        ("naïve café", ["café"], 2 / 3),
    ],
)
def test_f1(answer: str, golds: list[str], expected: float) -> None:
    assert f1(answer, golds) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("It is the Eiffel Tower in Paris.", ["Eiffel Tower"], 1.0),
        ("Eiffel-Tower", ["Eiffel Tower"], 0.0),
        ("Parisian", ["Paris"], 0.0),
        ("in Paris", ["Paris"], 1.0),
        ("Paris", ["in Paris"], 0.0),
        ("the north of a Marl", ["north of Marl"], 1.0),
        ("It is NYC", ["New York", "NYC"], 1.0),
        ("", ["Paris"], 0.0),
        ("", [""], 0.0),
        ("Paris", ["the"], 0.0),
        ("Paris", [], 0.0),
    ],
)
def test_accuracy(answer: str, golds: list[str], expected: float) -> None:
    assert accuracy(answer, golds) == expected


def test_one_text_instead_of_a_list_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="list of answers"):
        exact_match("Paris", "Paris")


@given(st.text())
def test_normalisation_leaves_no_ascii_capitals_punctuation_or_spare_space(text: str) -> None:
    normal = normalize(text)
    assert not set(normal) & set(string.punctuation + string.ascii_uppercase)
    assert normal == " ".join(normal.split())
    assert not {"a", "an", "the"} & set(normal.split())


@given(st.text(), st.lists(st.text(), max_size=3))
def test_scores_lie_between_0_and_1_and_a_match_is_the_best(answer: str, golds: list[str]) -> None:
    assert 0.0 <= f1(answer, golds) <= 1.0
    assert exact_match(answer, golds) in (0.0, 1.0)
    if exact_match(answer, golds) and normalize(answer):
        assert f1(answer, golds) == accuracy(answer, golds) == 1.0


@given(WORDS, WORDS)
def test_f1_is_symmetric_and_ignores_order(given_words: list[str], gold_words: list[str]) -> None:
    answer, gold = " ".join(given_words), " ".join(gold_words)
    assert f1(answer, [gold]) == f1(gold, [answer])
    assert f1(" ".join(reversed(given_words)), [gold]) == f1(answer, [gold])


@given(WORDS, WORDS, WORDS)
def test_an_alias_never_lowers_a_score(
    answer: list[str], gold: list[str], alias: list[str]
) -> None:
    texts = [" ".join(words) for words in (answer, gold, alias)]
    for metric in (exact_match, f1, accuracy):
        assert metric(texts[0], texts[1:]) == max(metric(texts[0], [text]) for text in texts[1:])


@pytest.mark.parametrize(
    ("answer", "golds", "expected"),
    [
        ("in 19125", ["1912"], True),
        ("It is Paris, France", ["Rome", "paris"], True),
        ("Par is", ["Paris"], False),
        ("fox", ["The"], True),  # as FlashRAG has it: nothing is in everything
        ("fox", [], False),
    ],
)
def test_contains(answer: str, golds: list[str], expected: bool) -> None:
    assert contains(answer, golds) is expected
