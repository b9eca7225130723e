"""Cells that hold truth values."""

from pathlib import Path

import pytest

from steper_ray.data.questions import gather_questions
from steper_ray.data.values import label_of, truth_of
from steper_ray.errors import InputError


@pytest.mark.parametrize("no", [False, 0, 0.0, "0", "0.0", "false", "FALSE", " No", "F", "n"])
def test_what_says_no(no: object) -> None:
    assert truth_of("x", no, if_missing=True) is False


@pytest.mark.parametrize("yes", [True, 1, 1.0, "1", "1.0", "true", "TRUE", "Yes ", "T", "y"])
def test_what_says_yes(yes: object) -> None:
    assert truth_of("x", yes, if_missing=False) is True


@pytest.mark.parametrize("missing", [None, "", " ", float("nan")])
def test_what_says_nothing(missing: object) -> None:
    assert truth_of("x", missing, if_missing=True)
    assert not truth_of("x", missing, if_missing=False)


@pytest.mark.parametrize("value", ["perhaps", 2, -1, 0.5, [], [False], {}, "00"])
def test_what_says_neither(value: object) -> None:
    with pytest.raises(InputError, match=r"^f: row 1: column 'a' must be true or false, got "):
        truth_of("f: row 1: column 'a'", value, if_missing=True)


def test_answerable_in_a_csv(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    words = ["false", "0.0", "F", "N", "", "T"]
    rows = "".join(f"{at},q?,a,{word}\n" for at, word in enumerate(words))
    file.write_text(f"id,question,answer,answerable\n{rows}")
    found = gather_questions(str(file), "questions.train")
    assert [question.id for question in found.questions] == ["4", "5"]
    assert [row.reason for row in found.accounts[0].skipped] == ["unanswerable"] * 4


def test_a_label_is_a_short_text_and_all_else_is_none() -> None:
    assert label_of({"type": "bridge"}, "type") == "bridge"
    assert label_of({"metadata": {"type": "bridge"}}, "metadata.type") == "bridge"
    for other in ("", "x" * 61, "a\nb", 3, ["bridge"], None, "\ud800"):
        assert label_of({"type": other}, "type") is None
    assert label_of({}, "type") is None
