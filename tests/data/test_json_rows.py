"""JSON that breaks readers: deep, huge, wrapped, in another encoding; every row is accounted for."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from steper_ray.data.addresses import Source
from steper_ray.data.json_rows import read_lines, read_list
from steper_ray.data.tables import read_rows
from steper_ray.errors import InputError

DEEP = "[" * 100_000 + "]" * 100_000

HUGE = "9" * 5000


def shown(rows: Iterator[tuple[int, Any]]) -> list[tuple[int, Any]]:
    return [(at, str(row) if isinstance(row, InputError) else row) for at, row in rows]


def test_a_row_nested_too_deeply_is_broken_and_the_next_one_read() -> None:
    items = ['{"a": 1}', f'{{"a": "]}}", "b": {DEEP}}}', '{"a": 2}']
    wanted = [(1, {"a": 1}), (2, "f: row 2: nested too deeply to be read"), (3, {"a": 2})]
    lines = "\n".join(items).encode()
    assert shown(read_lines("f", io.BytesIO(lines))) == wanted
    listed = f"[{', '.join(items)}]".encode()
    for chunk in (7, 1000, 1 << 20):
        assert shown(read_list("f", io.BytesIO(listed), chunk)) == wanted


def test_a_number_too_large_for_python_costs_its_column_alone() -> None:
    wanted = [(1, {"a": float("inf"), "b": 7}), (2, {"a": 2})]
    lines = f'{{"a": {HUGE}, "b": 7}}\n{{"a": 2}}'
    assert shown(read_lines("f", io.BytesIO(lines.encode()))) == wanted
    listed = f'[{{"a": {HUGE}, "b": 7}}, {{"a": 2}}]'
    assert shown(read_list("f", io.BytesIO(listed.encode()), 100)) == wanted


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        ("a.json", '{"data":[{"a":1},{"a":2}]}', [(1, {"a": 1}), (2, {"a": 2})]),
        ("a.json", '{"version": 1,\n "data": [\n{"a": 1}]}', [(1, {"a": 1})]),
        ("a.json", '{"a": 1}\n{"a": [{"b": 2}]}', [(1, {"a": 1}), (2, {"a": [{"b": 2}]})]),
        ("a.json", '{"a": 1, \n"b": 2}', [(1, {"a": 1, "b": 2})]),
        ("a.jsonl", '{"data":[{"a":1}]}', [(1, {"data": [{"a": 1}]})]),
        ("a.ndjson", '{"a": 1}', [(1, {"a": 1})]),
        ("a.JSONLINES", '[{"a": 1}]', [(1, {"a": 1})]),
    ],
)
def test_a_list_inside_an_object(
    tmp_path: Path, name: str, text: str, wanted: list[tuple[int, Any]]
) -> None:
    (tmp_path / name).write_text(text)
    assert shown(read_rows(Source(name, str(tmp_path / name), name))) == wanted


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps({"a": "é"}, ensure_ascii=False).encode("cp1252"), "it looks like Windows-1252"),
        ('{"a": 1}\n'.encode("utf-16"), "it looks like UTF-16"),
        ('{"a": 1}\n'.encode("utf-16-le"), "it looks like UTF-16"),
    ],
)
def test_another_encoding_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    for name in ("a.jsonl", "a.json", "a.csv"):
        file = tmp_path / name
        file.write_bytes(content)
        try:
            ((_, row),) = read_rows(Source(str(file), str(file), name))
        except InputError as error:
            row = error
        assert isinstance(row, InputError)
        assert said in str(row), name
        assert str(row).startswith(str(file))
