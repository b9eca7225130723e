"""Rows of every kind of file, and every kind of bad row with its file, row and column."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.data.addresses import Source
from steper_ray.data.json_rows import read_list
from steper_ray.data.passages import ReadUnit, read_unit
from steper_ray.data.settings import CorpusConfig
from steper_ray.data.tables import read_rows
from steper_ray.errors import InputError
from steper_ray.schema import Passage

GOOD = {"id": "1", "title": "T", "text": "x"}


def source(file: Path) -> Source:
    return Source(str(file), str(file), file.name)


def jsonl(folder: Path, *rows: object, name: str = "rows.jsonl") -> Path:
    file = folder / name
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def passages(file: Path) -> list[Passage]:
    return list(read_unit(ReadUnit("table", (source(file),)), CorpusConfig(), []))


def test_every_kind_of_file_gives_the_same_passages(tmp_path: Path) -> None:
    rows = [GOOD, {"id": "2", "title": "É 🙂", "text": 'a "quoted" line\nand another'}]
    jsonl(tmp_path, *rows, name="a.jsonl")
    jsonl(tmp_path, *rows, name="lines.json")
    (tmp_path / "b.json").write_text(json.dumps(rows, indent=2))
    (tmp_path / "bom.json").write_text(json.dumps(rows), encoding="utf-8-sig")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "part-00000")
    for name, delimiter, encoding in [("e.csv", ",", "utf-8-sig"), ("f.tsv", "\t", "utf-8")]:
        text = io.StringIO()
        table = csv.DictWriter(text, ["id", "title", "text"], delimiter=delimiter)
        table.writeheader()
        table.writerows(rows)
        (tmp_path / name).write_text(text.getvalue(), encoding=encoding)
    wanted = [Passage("1", "T", "x"), Passage("2", "É 🙂", rows[1]["text"])]
    files = sorted(tmp_path.iterdir())
    assert len(files) == 9
    for file in files:
        assert passages(file) == wanted, file.name


@pytest.mark.parametrize("title", [None, "", " \t"])
def test_a_passage_may_have_no_title(tmp_path: Path, title: str | None) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({**GOOD, "title": title}))
    assert [passage.title for passage in passages(file)] == [""]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b'{"id": "2", "title": "T"}', "row 2: no column 'text'; the row has id, title; name it"),
        (b'{"id": "2", "title": "T", "text": "  "}', "row 2: column 'text' must be text"),
        (b'{"id": "2", "title": 7, "text": "x"}', "row 2: column 'title' must be text"),
        (b'{"title": "T", "text": "x"}', "row 2: no column 'id'; the row has text, title; name it"),
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
        passages(file)
    assert str(caught.value).startswith(f"{file}: {said}")
    assert str(caught.value).endswith("or set corpus.bad_rows: skip")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.parquet", b"x", "not a Parquet file"),
        ("a.xyz", b"x", "begins neither as JSON nor as Parquet"),
        ("a.json", b'"x"', "begins neither as JSON nor as Parquet"),
        ("a.json", b'[{"a": 1}, {"a": tru}]', "row 2: not valid JSON"),
        ("a.json", b'[{"a": 1}, {"a": ', "row 2: not valid JSON"),
        ("a.json", b'[{"a": 1}', "after row 1: expected ',' or ']', got the end of the file"),
        ("a.json", b'[{"a": 1} {"a": 2}]', "after row 1: expected ',' or ']', got '{'"),
        ("a.json", b'[{"a": 1},]', "row 2: not valid JSON"),
        ("a.json", b'[{"a": 1}] x', "something stands after the end of the list"),
        ("a.csv", b'a,b\n1,"2', "after row 1: not valid CSV"),
        (
            "a.csv",
            b"a,\xff\n1,2\n",
            "row 1: invalid UTF-8 (invalid start byte); it looks like Windows",
        ),
        ("a.csv", b"a,a\n1,2\n", "row 1: column names must differ"),
        ("a.jsonl.gz", b"not compressed", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_read_on(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(InputError) as caught:
        list(read_rows(source(file)))
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)


def test_rows_that_cannot_be_read_are_errors_among_the_others(tmp_path: Path) -> None:
    for name, content, wanted in [
        ("a.jsonl", '{"a": 1}\n\n{"a"\n{"a": 2}\n', [(1, "row"), (3, "error"), (4, "row")]),
        ("a.json", '[{"a": 1}, 5, {"a": 2}]', [(1, "row"), (2, "error"), (3, "row")]),
        ("a.csv", "a,b\n1,2\n\n3\n4,5\n", [(2, "row"), (4, "error"), (5, "row")]),
    ]:
        (tmp_path / name).write_text(content)
        found = list(read_rows(source(tmp_path / name)))
        kinds = [(n, "error" if isinstance(row, InputError) else "row") for n, row in found]
        assert kinds == wanted
        for number, row in found:
            if isinstance(row, InputError):
                assert str(row).startswith(f"{tmp_path / name}: row {number}: ")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv"])
def test_a_byte_that_is_no_utf8_breaks_its_row_and_no_other(tmp_path: Path, name: str) -> None:
    rows = [{"id": str(at), "text": f"passage {at} é"} for at in range(300)]
    if name.endswith("sv"):
        sign = "," if name == "a.csv" else "\t"
        lines = [f"id{sign}text", *(sign.join(row.values()) for row in rows)]
        first, content = 2, "\n".join(lines).encode()
    else:
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        text = f"[{text.replace('}', '},', 299)}]" if name == "a.json" else text
        first, content = 1, text.encode()
    broken = content.replace("passage 250 é".encode(), b"passage 250 \xe9")
    (tmp_path / name).write_bytes(broken)
    found = list(read_rows(source(tmp_path / name)))
    assert len(found) == 300
    for at, (number, row) in enumerate(found):
        assert number == at + first
        if at == 250:
            assert str(row).startswith(f"{tmp_path / name}: row {number}: invalid UTF-8")
            assert "it looks like Windows-1252" in str(row)
        else:
            assert row == rows[at]


def test_only_columns_that_are_asked_for_are_read(tmp_path: Path) -> None:
    table = pa.table(
        {
            "id": ["1", "2"],
            "text": ["x", "y"],
            "more": [{"a": "p", "b": 1}, {"a": "q", "b": 2}],
            "crawled": pa.array([2**62, 0], pa.timestamp("us")),  # Python has no such date
        }
    )
    file = tmp_path / "a.parquet"
    pq.write_table(table.append_column("id2", [["1", "2"]]), file)
    found = [row for _, row in read_rows(source(file), ["id", "text", "more.a", "none"])]
    assert found == [
        {"id": "1", "text": "x", "more": {"a": "p"}},
        {"id": "2", "text": "y", "more": {"a": "q"}},
    ]
    assert passages(file) == [Passage("1", "", "x"), Passage("2", "", "y")]
    # asked for, it breaks its row and no other
    (_, first), (_, second) = read_rows(source(file), ["id", "crawled"])
    assert str(first).startswith(f"{file}: row 1: column 'crawled' cannot be read (")
    assert not isinstance(second, InputError)


def test_a_parquet_column_may_stand_twice_unless_it_is_asked_for(tmp_path: Path) -> None:
    arrays = [pa.array(["1"]), pa.array(["x"]), pa.array(["a"]), pa.array(["b"])]
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_arrays(arrays, ["id", "text", "answer", "answer"]), file)
    assert passages(file) == [Passage("1", "", "x")]
    with pytest.raises(InputError, match=r"a\.parquet: column 'answer' stands twice"):
        list(read_rows(source(file), ["id", "answer"]))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)


@given(
    rows=st.lists(st.dictionaries(st.text(max_size=4), JSON, max_size=3), max_size=5),
    chunk=st.integers(1, 9),
    indent=st.sampled_from([None, 1]),
    ascii_only=st.booleans(),
)
def test_a_list_read_in_pieces_is_the_list(
    rows: list[dict[str, Any]], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    content = text.encode("utf-8", "surrogatepass")
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return  # half a character: no UTF-8
    found = list(read_list("m", io.BytesIO(content), chunk))
    assert [number for number, _ in found] == list(range(1, len(rows) + 1))
    assert [row for _, row in found] == rows
