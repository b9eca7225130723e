"""Texts of chat models, and their words without the marks around them."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.reasoning.cleaning import clean, clean_line, unquoted
from steper_ray.toy.pretrain_rows import rationales
from steper_ray.toy.world import make_world


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        # Emphasis, whole or in part, with one end cut off, and nested
        ("**So the answer is: Paris**", "So the answer is: Paris"),
        ("So the answer is: **Paris**.", "So the answer is: Paris."),
        ("**So the answer is: Paris", "So the answer is: Paris"),
        ("*So the answer is: Paris", "So the answer is: Paris"),
        ("***Paris*** is in __France__.", "Paris is in France."),
        ("The *Eiffel* Tower is _tall_.", "The Eiffel Tower is tall."),
        ("`So the answer is: Paris`", "So the answer is: Paris"),
        ("**`Search[x]`**", "Search[x]"),
        ("**Action**: Search[x]", "Action: Search[x]"),
        ("**[Paris](https://x.org/a_b)** is [so](http://x).", "Paris is so."),
        # No emphasis
        ("As said in [1](2) and [x](y).",) * 2,
        ("Sagittarius A* is a star, and M*A*S*H a film.",) * 2,
        ("2**3 is 8, 2 * 3 is 6, and 2 ** 3 is 8 too.",) * 2,
        ("Hawai`i and O`ahu use snake_case_names.",) * 2,
        # Before a line
        ("\n\n The tower  is \t in Paris.\n", "The tower is in Paris."),
        ("1. Where is it?", "Where is it?"),
        ("(2) Where is it?", "Where is it?"),
        ("- **Where** is it?", "Where is it?"),
        ("## Answer", "Answer"),
        ("> - 3) It is so.", "It is so."),
        ("Step 2: It is so.", "It is so."),
        ("Schritt #2： Es ist so.", "Es ist so."),
        ("**Thought 1:** I see.", "I see."),
        ("Étape 1 : Il est là.", "Il est là."),
        *(
            (f"{label}它在。", "它在。")
            for label in ("事实2：", "步骤 1：", "ステップ1: ", "1、", "（2）")
        ),
        *((f"{bullet} It is so.", "It is so.") for bullet in "◦●▪"),
        ("Fact 2:\n\nIt is so.", "It is so."),
        ("\ufeffJean\u2011Paul\u00ad is\u200b so.", "Jean-Paul is so."),
        # No mark before a line
        ("比分3：4",) * 2,
        ("1984. A novel.",) * 2,
        ("3.5 metres.",) * 2,
        ("#1 hits",) * 2,
        ("-5 degrees",) * 2,
        ("Matthew 5:3 and Ratio 3: 4",) * 2,
        ("Score 3: 4",) * 2,
        ("The answer is: 5",) * 2,
        # Lines that say nothing
        ("```\nAction: Search[x]\n```", "Action: Search[x]"),
        ("```text\nParis\n```", "Paris"),
        ("---\nParis\n***\n", "Paris"),
        ("\r\n\r\nOne.\r\nTwo.", "One.\nTwo."),
        ("**", ""),
        (" \n ", ""),
        # Quotes
        ('"It is so."', "It is so."),
        ("'Paris'", "Paris"),
        ("“Paris”", "Paris"),
        ("「巴黎」", "巴黎"),
        ('"Heroes" is by "Bowie"',) * 2,
        ('He said "yes"',) * 2,
    ],
)
def test_marks_are_gone_and_words_stay(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned
    assert clean(cleaned) == cleaned


def test_the_marks_of_joined_lines_are_gone_too() -> None:
    assert clean("1.\nParis") == "1.\nParis"
    assert clean_line("1.\nParis") == "Paris"
    assert clean_line("The answer\nis:\n\n**Paris**") == "The answer is: Paris"


def test_quotes_are_taken_off_where_they_are_a_pair() -> None:
    assert [unquoted(text) for text in ('"a"', "«a»", '"', "", '"a', '"a" or "b"', '""')] == [
        *("a", "a", '"', "", '"a', '"a" or "b"', ""),
    ]


def test_the_toy_worlds_sentences_are_clean() -> None:
    world = make_world(0, 0.05)
    for _, chain in world.chains({"train": 60}):
        for text in (world.question_text(chain), *rationales(world, chain)):
            assert clean(text) == text


@given(st.text(st.sampled_from("aB1 é.:*_`\"'#>-()[]\n"), max_size=20))
def test_a_cleaned_line_has_single_spaces_and_only_characters_of_the_text(text: str) -> None:
    line = clean_line(text)
    assert line == " ".join(line.split())
    assert len(line) <= len(text)
    assert set(line) <= {*text, " "}


@pytest.mark.parametrize(
    "piece",
    [
        "*",
        "_",
        "`",
        "**a ",
        "*a ",
        "_a ",
        "`a ",
        "**`",
        "[a](http://",
        "[",
        "[a](",
        "1. ",
        "> - ",
        "\n",
        "\n*",
        '"',
        "a 1: ",
    ],
)
def test_no_text_takes_long(piece: str) -> None:
    started = time.process_time()
    clean_line((piece * 100_000)[:100_000])
    assert time.process_time() - started < 1
