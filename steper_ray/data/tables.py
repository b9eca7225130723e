"""Rows of JSON, JSON Lines, CSV and Parquet files and of Hub datasets, broken rows named by number.

Used for what users bring (passages and questions). JSON of one list is told from JSON of one object a line
by its first character, and is read piece by piece: HotpotQA's 560 MB take a few MB of memory. Rows are
counted from 1, as editors do (lines of JSON Lines, items of a JSON list; a CSV file's header is its row 1).

In CSV every cell is text, an empty one is null, and a list is written in JSON.
"""

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, Final

from steper_ray.data.addresses import Source
from steper_ray.errors import InputError
from steper_ray.text import short_message

Row = dict[str, Any]


CHUNK: Final = 1 << 20


LONGEST_ROW: Final = 1 << 28
"""Characters of a JSON list's item at most; beyond that it is taken to be broken."""


_BOM: Final = b"\xef\xbb\xbf"


_SPACE: Final = re.compile(r"\s*")


_SURROGATE: Final = re.compile("[\ud800-\udfff]")


def read_rows(source: Source) -> Iterator[tuple[int, Row | InputError]]:
    """(row number, row) for each row; a row that cannot be read comes as the error that says why.

    Raises InputError where the rest of a source cannot be read: another format than its suffix says,
    invalid UTF-8 in a JSON list, no access.
    """
    import pyarrow as pa

    try:
        if source.is_hub:
            from steper_ray.data.hub_tables import read_hub

            yield from read_hub(source.root)
        elif source.suffix == ".parquet":
            yield from _read_parquet(source)
        elif source.suffix in (".csv", ".tsv"):
            yield from _read_csv(source)
        else:
            yield from _read_json(source)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source}: cannot be read ({short_message(error)})") from None


def first_row(source: Source) -> Row | None:
    """The first row that can be read, which shows the format of a source; None without rows."""
    return next((row for _, row in read_rows(source) if not isinstance(row, InputError)), None)


def _read_json(source: Source) -> Iterator[tuple[int, Row | InputError]]:
    with source.open() as stream:
        start = stream.read(4096).removeprefix(_BOM).lstrip()
    if start.startswith(b"PAR1"):
        yield from _read_parquet(source)
    elif start.startswith(b"["):
        with source.open() as stream:
            yield from _read_list(source, stream)
    elif start.startswith(b"{") or source.suffix == ".jsonl" or not start:
        with source.open() as stream:
            yield from _read_lines(source, stream)
    else:
        raise InputError(
            f"{source}: begins neither as JSON nor as Parquet; expected a .jsonl, .json, .csv, .tsv or "
            ".parquet file"
        )


def _read_lines(source: Source, stream: BinaryIO) -> Iterator[tuple[int, Row | InputError]]:
    for number, line in enumerate(stream, 1):
        if number == 1:
            line = line.removeprefix(_BOM)
        if not line.strip():
            continue
        where = f"{source}: row {number}"
        try:
            row = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            yield (
                number,
                InputError(
                    f"{where}: invalid UTF-8 at byte {error.start + 1} of the line; save the file as UTF-8"
                ),
            )
        except json.JSONDecodeError as error:
            yield (
                number,
                InputError(f"{where}: not valid JSON ({error.msg}); write one object a line"),
            )
        else:
            yield number, _object(where, row)


def _read_list(
    source: Source, stream: BinaryIO, chunk: int = CHUNK
) -> Iterator[tuple[int, Row | InputError]]:
    """The items of one JSON list, holding little more than one of them at a time.

    chunk: characters read at once
    """
    characters = io.TextIOWrapper(stream, encoding="utf-8-sig")
    decode = json.JSONDecoder().raw_decode
    number = 0
    try:
        buffer, at = _at_character(characters, "", 0, chunk)
        assert buffer[at] == "["
        at += 1
        while True:
            buffer, at = _at_character(characters, buffer, at, chunk)
            sign = buffer[at : at + 1]
            if sign == "]":
                break
            if number:
                if sign != ",":
                    shown = repr(sign) if sign else "the end of the file"
                    raise InputError(
                        f"{source}: after row {number}: expected ',' or ']', got {shown}"
                    )
                buffer, at = _at_character(characters, buffer, at + 1, chunk)
            number += 1
            while True:
                try:
                    item, at = decode(buffer, at)
                    break
                except json.JSONDecodeError as error:
                    # either broken, or not read to its end yet
                    more = characters.read(max(chunk, len(buffer) - at))
                    if not more or len(buffer) - at > LONGEST_ROW:
                        raise InputError(
                            f"{source}: row {number}: not valid JSON ({error.msg}), so nothing after it "
                            "can be read; repair the file or fetch it again"
                        ) from None
                    buffer, at = buffer[at:] + more, 0
            yield number, _object(f"{source}: row {number}", item)
        buffer, at = _at_character(characters, buffer, at + 1, chunk)
        if at < len(buffer):
            raise InputError(f"{source}: something stands after the end of the list")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{source}: after row {number}: invalid UTF-8 ({error.reason}); save the file as UTF-8"
        ) from None


def _at_character(
    characters: io.TextIOWrapper, buffer: str, at: int, chunk: int
) -> tuple[str, int]:
    """Buffer and position of the next character that is no space; position at its end if none is."""
    while True:
        match = _SPACE.match(buffer, at)
        at = match.end() if match else at
        if at < len(buffer):
            return buffer, at
        buffer, at = characters.read(chunk), 0
        if not buffer:
            return buffer, at


def _object(where: str, row: object) -> Row | InputError:
    if isinstance(row, dict):
        return row
    return InputError(f"{where}: expected a JSON object with named fields")


def _read_csv(source: Source) -> Iterator[tuple[int, Row | InputError]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold a whole document
    number = 0
    with source.open() as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
        cells = csv.reader(text, delimiter="\t" if source.suffix == ".tsv" else ",", strict=True)
        header: list[str] | None = None
        try:
            for number, row in enumerate(cells, 1):
                if header is None:
                    header = row
                    if len(set(header)) < len(header) or not all(header):
                        raise InputError(f"{source}: row 1: column names must differ, got {header}")
                elif row and len(row) != len(header):
                    yield (
                        number,
                        InputError(
                            f"{source}: row {number}: {len(row)} cells, but the header has {len(header)}"
                        ),
                    )
                elif row:
                    pairs = zip(header, row, strict=True)
                    yield number, {name: cell or None for name, cell in pairs}
        except (csv.Error, UnicodeDecodeError) as error:
            raise InputError(
                f"{source}: after row {number}: not valid UTF-8 CSV ({short_message(error)})"
            ) from None


def _read_parquet(source: Source) -> Iterator[tuple[int, Row]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with source.open_for_seeking() as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise InputError(f"{source}: not a Parquet file ({short_message(error)})") from None
        number = 0
        for batch in table.iter_batches(batch_size=4096):
            try:
                rows = batch.to_pylist()
            except UnicodeDecodeError as error:
                raise InputError(f"{source}: after row {number}: invalid UTF-8 ({error})") from None
            for row in rows:
                number += 1
                yield number, row


def text_of(
    where: str,
    row: Mapping[str, Any],
    column: str,
    *,
    integers: bool = False,
    may_be_empty: bool = False,
    setting: str = "",
) -> str:
    """The text in a column; raises InputError for one that is missing, empty or not text.

    where: file and row, as `train.jsonl: row 7`; integers: take a whole number as text, as ids may be
    may_be_empty: null and blanks are an empty text
    setting: what names the column in the run file; empty for the columns of a published format
    """
    if column not in row:
        remedy = f"; name it in {setting}" if setting else ""
        raise InputError(
            f"{where}: no column {column!r}; the row has {', '.join(sorted(row))}{remedy}"
        )
    value = row[column]
    if integers and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if may_be_empty and (value is None or (isinstance(value, str) and not value.strip())):
        return ""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: column {column!r} must be text and not empty, got {value!r}")
    if has_surrogate(value):
        raise InputError(f"{where}: column {column!r} holds a lone surrogate")
    return value


def texts_of(where: str, row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The list of texts in an optional column, or such a list in JSON; () where absent or null."""
    value = row.get(column)
    if value is None:
        return ()
    if isinstance(value, str) and value.lstrip().startswith("["):
        with suppress(json.JSONDecodeError):  # said below
            value = json.loads(value)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(
            f'{where}: column {column!r} must be a list of texts (in CSV: ["a", "b"]), got {value!r}'
        )
    if any(map(has_surrogate, value)):
        raise InputError(f"{where}: column {column!r} holds a lone surrogate")
    return tuple(value)


def has_surrogate(text: str) -> bool:
    """Whether a text holds half a character, which no file could be written with."""
    return _SURROGATE.search(text) is not None
