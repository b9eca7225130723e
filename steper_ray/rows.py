"""Reads rows of text from JSONL and Parquet files, and says exactly where one is wrong.

Used for what users bring (passages and questions). Rows are counted from 1, as editors do.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steper_ray.errors import InputError

SUFFIXES = (".jsonl", ".parquet")


def input_files(path: str, what: str) -> list[Path]:
    """The files behind a path: one file, or every JSONL and Parquet file of a folder, sorted.

    what: names the input in errors, as `corpus.passages`
    """
    if not path:
        raise InputError(f"{what} is not set; name a .jsonl or .parquet file, or a folder of them")
    root = Path(path).expanduser()
    if root.is_dir():
        files = sorted(p for p in root.rglob("*") if p.suffix in SUFFIXES and p.is_file())
        if not files:
            raise InputError(f"{what}: {root}: no .jsonl or .parquet file in this folder")
        return files
    if not root.is_file():
        raise InputError(f"{what}: {root}: no such file; check the path")
    if root.suffix not in SUFFIXES:
        raise InputError(f"{what}: {root}: expected a .jsonl or .parquet file")
    return [root]


def read_rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, row) for each row of a file; blank lines of a JSONL file are skipped."""
    if file.suffix == ".parquet":
        yield from _read_parquet(file)
    else:
        yield from _read_jsonl(file)


def _read_jsonl(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.decode("utf-8"))
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{file}: row {number}: invalid UTF-8 at byte {error.start + 1} of the line; "
                    "save the file as UTF-8"
                ) from None
            except json.JSONDecodeError as error:
                raise InputError(
                    f"{file}: row {number}: not valid JSON ({error.msg}); write one object a line"
                ) from None
            if not isinstance(row, dict):
                raise InputError(f"{file}: row {number}: expected a JSON object with named fields")
            yield number, row


def _read_parquet(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise InputError(f"{file}: not a Parquet file ({' '.join(str(error).split())})") from None
    number = 0
    with table:
        for batch in table.iter_batches():
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(f"{file}: after row {number}: invalid UTF-8 ({error})") from None
            for row in rows:
                number += 1
                yield number, row


def text_of(file: Path, number: int, row: dict[str, Any], column: str) -> str:
    """The text in a column; missing, empty or not text is an error that says where."""
    if column not in row:
        raise InputError(
            f"{file}: row {number}: no column {column!r}; the row has {', '.join(sorted(row))}"
        )
    value = row[column]
    if isinstance(value, int) and not isinstance(value, bool) and column == "id":
        value = str(value)
    if not isinstance(value, str) or not value.strip():
        raise InputError(
            f"{file}: row {number}: column {column!r} must be text and not empty, got {value!r}"
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{file}: row {number}: column {column!r} holds a lone surrogate")
    return value


def texts_of(file: Path, number: int, row: dict[str, Any], column: str) -> tuple[str, ...]:
    """The list of texts in an optional column; absent or null is empty."""
    value = row.get(column)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(
            f"{file}: row {number}: column {column!r} must be a list of texts, got {value!r}"
        )
    return tuple(value)
