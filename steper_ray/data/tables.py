"""Rows of JSON, JSON Lines, CSV, TSV and Parquet files and of Hub datasets, broken rows by number.

Used for what users bring (passages and questions). Rows are counted from 1, as editors do (lines of JSON
Lines, items of a JSON list; a CSV file's header is its row 1). Only the columns that are asked for are
read, so nothing in another column costs time or stops a stage.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final

from steper_ray.data.addresses import Source
from steper_ray.data.compression import check_not_compressed
from steper_ray.data.csv_rows import read_csv
from steper_ray.data.json_rows import (
    BOM,
    LONGEST_ROW,
    Row,
    check_encoding,
    decode,
    read_lines,
    read_list,
    read_object,
)
from steper_ray.errors import InputError
from steper_ray.text import short_message

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE: Final = 4096
"""Rows of a Parquet file that are turned into objects at a time."""


ROWS_TO_RECOGNISE: Final = 16
"""Rows that show the format of a source: JSON Lines may leave out what is null in one of them."""


LINES: Final = (".jsonl", ".ndjson", ".jsonlines")
"""Suffixes of files with one object a line."""


def read_rows(
    source: Source, columns: Collection[str] | None = None, *, all_needed: bool = True
) -> Iterator[tuple[int, Row | InputError]]:
    """(row number, row) for each row; a row that cannot be read comes as the error that says why.

    columns: names of the columns to read, with dots for fields inside objects; None reads all. A row may
             lack some of them, and may have others.
    all_needed: whether a column of `columns` that stands twice is an error
    Raises InputError where the rest of a source cannot be read: another format than its suffix says,
    invalid UTF-8 in a JSON list, no access.
    """
    import pyarrow as pa

    try:
        if source.is_hub:
            from steper_ray.data.hub_tables import read_hub

            yield from read_hub(source.root, columns)
        elif source.suffix == ".parquet":
            yield from _read_parquet(source, columns, all_needed)
        elif source.suffix in (".csv", ".tsv"):
            with source.open() as stream:
                check_encoding(str(source), stream.read(4096))
            with source.open() as stream:
                tabs = source.suffix == ".tsv"
                yield from read_csv(str(source), stream, columns, tabs=tabs, all_needed=all_needed)
        else:
            yield from _read_json(source, columns, all_needed)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{source}: cannot be read ({short_message(error)})") from None


def first_rows(source: Source, columns: Collection[str] | None = None) -> list[Row]:
    """The first rows that can be read, which show the format of a source."""
    rows = read_rows(source, columns, all_needed=False)
    readable = (row for _, row in rows if not isinstance(row, InputError))
    return list(islice(readable, ROWS_TO_RECOGNISE))


def _read_json(
    source: Source, columns: Collection[str] | None, all_needed: bool
) -> Iterator[tuple[int, Row | InputError]]:
    """JSON of one list is told from JSON of one object a line by its first character."""
    where = str(source)
    with source.open() as stream:
        start = stream.read(4096)
    check_encoding(where, start)
    start = start.removeprefix(BOM).lstrip()
    if start.startswith(b"PAR1"):
        yield from _read_parquet(source, columns, all_needed)
        return
    with source.open() as stream:
        if start.startswith(b"["):
            yield from read_list(where, stream)
        elif start.startswith(b"{") and source.suffix == ".json" and _is_one_object(source):
            yield from read_object(where, stream)
        elif start.startswith(b"{") or source.suffix in LINES or not start:
            yield from read_lines(where, stream)
        else:
            raise InputError(
                f"{where}: begins neither as JSON nor as Parquet; expected a .jsonl, .json, .csv, .tsv "
                "or .parquet file"
            )


def _is_one_object(source: Source) -> bool:
    """Whether a JSON file that begins with an object has no other one on a line below."""
    with source.open() as stream:
        first = stream.readline(LONGEST_ROW)
        while first and not first.removeprefix(BOM).strip():
            first = stream.readline(LONGEST_ROW)
        following = stream.read(1)
    if not following or following == b"{":
        return not following
    try:
        decode(first.removeprefix(BOM).decode())
    except (ValueError, RecursionError):
        return True
    return False


def _read_parquet(
    source: Source, columns: Collection[str] | None, all_needed: bool
) -> Iterator[tuple[int, Row | InputError]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if source.is_compressed:
        raise InputError(
            f"{source}: Parquet files are compressed inside; decompress this one (as {source.stem}.parquet)"
        )
    with source.open_for_seeking() as file:
        check_not_compressed(str(source), file.read(16))
        file.seek(0)
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise InputError(f"{source}: not a Parquet file ({short_message(error)})") from None
        names = table.schema_arrow.names
        chosen = None if columns is None else _chosen(names, columns)
        twice = [name for name in chosen or names if names.count(name) > 1]
        if twice and all_needed:
            raise InputError(f"{source}: column {twice[0]!r} stands twice; rename or remove one")
        if chosen is not None:
            chosen = [name for name in chosen if name not in twice]
        number = 0
        size = ROWS_AT_ONCE if all_needed else ROWS_TO_RECOGNISE
        for batch in table.iter_batches(batch_size=size, columns=chosen):
            for row in _rows(batch, f"{source}: row ", number + 1):
                number += 1
                yield number, row


def _chosen(names: Sequence[str], columns: Collection[str]) -> list[str]:
    """The columns of a Parquet file to read: those asked for, of objects only the fields asked for."""
    asked = {name: name for name in columns} | {
        name: name.partition(".")[0] for name in columns if name not in names
    }
    return [name for name, outer in asked.items() if outer in names]


def _rows(batch: "pa.RecordBatch", where: str, first: int) -> Iterator[Row | InputError]:
    """The rows of a batch; one that Python has no values for comes as an error.

    where: the row's number, from `first` on, is appended to it
    """
    import pyarrow as pa

    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError, pa.ArrowException):
        for at in range(batch.num_rows):
            yield _row(batch.slice(at, 1), f"{where}{first + at}")
    else:
        yield from rows


def _row(batch: "pa.RecordBatch", where: str) -> Row | InputError:
    import pyarrow as pa

    row = {}
    for name, values in zip(batch.schema.names, batch.columns, strict=True):
        try:
            row[name] = values[0].as_py()
        except (ValueError, OverflowError, pa.ArrowException) as error:
            return InputError(f"{where}: column {name!r} cannot be read ({short_message(error)})")
    return row
