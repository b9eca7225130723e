"""Every kind of bad row is refused with its file, row and column."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.corpus import read_passages
from steper_ray.errors import InputError
from steper_ray.questions import read_questions
from steper_ray.rows import input_files
from steper_ray.schema import Passage, Question

GOOD = {"id": "1", "title": "T", "text": "x"}


def jsonl(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_jsonl_and_parquet_give_the_same_passages(tmp_path: Path) -> None:
    rows = [GOOD, {"id": 2, "title": "É 🙂", "text": 'a "quoted" line\nand another'}]
    file = jsonl(tmp_path, *rows)
    pq.write_table(
        pa.Table.from_pylist([{**row, "id": str(row["id"])} for row in rows]),
        tmp_path / "rows.parquet",
    )
    wanted = [(1, Passage("1", "T", "x")), (2, Passage("2", "É 🙂", rows[1]["text"]))]  # type: ignore[arg-type]
    assert list(read_passages(file)) == wanted
    assert list(read_passages(tmp_path / "rows.parquet")) == wanted


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": "2", "title": "T"}', "row 2: no column 'text'; the row has id, title"),
        (b'{"id": "2", "title": "T", "text": "  "}', "row 2: column 'text' must be text"),
        (b'{"id": "2", "title": null, "text": "x"}', "row 2: column 'title' must be text"),
        (b'{"id": true, "title": "T", "text": "x"}', "row 2: column 'id'"),
        (b'{"id": "2", "title": "\\ud800", "text": "x"}', "row 2: column 'title' holds a lone"),
        (b'{"id": "2", "title": "\xff", "text": "x"}', "row 2: invalid UTF-8 at byte 23"),
        (b'{"id": "2", ', "row 2: not valid JSON"),
        (b"[1, 2]", "row 2: expected a JSON object"),
    ],
)
def test_a_bad_passage_is_named(tmp_path: Path, line: bytes, said: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_bytes(json.dumps(GOOD).encode() + b"\n" + line + b"\n")
    with pytest.raises(InputError) as caught:
        list(read_passages(file))
    assert str(caught.value).startswith(f"{file}: {said}")


def test_questions_with_and_without_the_optional_columns(tmp_path: Path) -> None:
    file = jsonl(
        tmp_path,
        {"id": "a", "question": "q?", "answer": "x"},
        {
            "id": "b",
            "question": "r?",
            "answer": "y",
            "answer_aliases": ["Y", "why"],
            "supporting_ids": ["p1", "p2"],
            "hops": 2,
        },
    )
    assert read_questions(str(file), "questions.train") == [
        Question("a", "q?", "x"),
        Question("b", "r?", "y", ("Y", "why"), ("p1", "p2"), 2),
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "b", "question": "q?"}, "row 2: no column 'answer'"),
        ({"id": "b", "question": "q?", "answer": ""}, "row 2: column 'answer'"),
        ({"id": "a", "question": "q?", "answer": "x"}, "row 2: column 'id': 'a' is already"),
        ({"id": "b", "question": "q?", "answer": "x", "hops": 0}, "row 2: column 'hops'"),
        ({"id": "b", "question": "q?", "answer": "x", "answer_aliases": "y"}, "must be a list"),
    ],
)
def test_a_bad_question_is_named(tmp_path: Path, row: dict[str, object], said: str) -> None:
    file = jsonl(tmp_path, {"id": "a", "question": "q?", "answer": "x"}, row)
    with pytest.raises(InputError) as caught:
        read_questions(str(file), "questions.train")
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    for path, said in [
        ("", "corpus.passages is not set"),
        (str(tmp_path / "none.jsonl"), "no such file"),
        (str(tmp_path), "no .jsonl or .parquet file in this folder"),
    ]:
        with pytest.raises(InputError, match=re.escape(said)):
            input_files(path, "corpus.passages")
    text = tmp_path / "a.txt"
    text.write_text("x")
    with pytest.raises(InputError, match=r"expected a \.jsonl or \.parquet file"):
        input_files(str(text), "corpus.passages")
    fake = tmp_path / "fake.parquet"
    fake.write_text("x")
    with pytest.raises(InputError, match="not a Parquet file"):
        list(read_passages(fake))
    empty = jsonl(tmp_path, name="empty.jsonl")
    with pytest.raises(InputError, match="no question in it"):
        read_questions(str(empty), "questions.train")
