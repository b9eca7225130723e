"""Rows of CSV and TSV files. Every cell is text, an empty one is None.

CSV is read by Python's `csv`, strictly. TSV exists with quotes (written by csv modules) and without
(MS MARCO), where a quote at the beginning of a cell means nothing: a line with as many cells as the header
is a row whatever its quotes, so none swallows the next; only where the cells do not add up may a quoted
cell go on over the following lines.

The first line names the columns, unless these are asked for by number (`1` is the first). A column without
a name (the index that pandas writes, a comma at the line's end) is no column.
"""

import csv
import io
import re
import sys
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, Final

from steper_ray.data.json_rows import BYTES_AS_HALVES, not_utf8_in
from steper_ray.data.values import brief
from steper_ray.errors import InputError
from steper_ray.text import short_message

Row = dict[str, Any]


MAX_CELL_LINES: Final = 10_000
"""Lines that a quoted cell of a TSV file goes on over at most."""


_QUOTED: Final = re.compile(r'"((?:[^"]|"")*+)"')


_TO_CLOSING_QUOTE: Final = re.compile(r'[^"]*+(?:""[^"]*+)*+"')


_SEPARATORS: Final = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


def read_csv(
    where: str,
    stream: BinaryIO,
    columns: Collection[str] | None,
    *,
    tabs: bool,
    all_needed: bool = True,
) -> Iterator[tuple[int, Row | InputError]]:
    """The rows of a file by their number, the first line being 1.

    columns: names that are asked for; None asks for all
    tabs:    whether tabs separate the cells, and not commas
    all_needed: whether a name that is asked for may not stand twice in the header
    """
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors=BYTES_AS_HALVES, newline="")
    header: list[str] = []
    number = 0
    try:
        for number, cells in enumerate(_tsv_cells(text) if tabs else _csv_cells(text), 1):
            if not cells:
                continue
            broken = not_utf8_in(f"{where}: row {number}", "\t".join(cells))
            if broken is not None and header:
                yield number, broken
                continue
            if broken is not None:
                raise broken
            if not header:
                if not _has_no_header(cells, columns or ()):
                    _check_header(f"{where}: row {number}", cells, columns, all_needed)
                    header = cells
                    continue
                header = [str(at) for at in range(1, len(cells) + 1)]
            if len(cells) == len(header):
                pairs = zip(header, cells, strict=True)
                yield number, {name: cell or None for name, cell in pairs if name}
                continue
            fault = f"{len(cells)} cells, but the header has {len(header)}"
            yield number, InputError(f"{where}: row {number}: {fault}")
    except csv.Error as error:
        raise InputError(
            f"{where}: after row {number}: not valid CSV ({short_message(error)})"
        ) from None


def _has_no_header(cells: Sequence[str], columns: Collection[str]) -> bool:
    """Whether columns are asked for by number, and the first line does not name them so."""
    return any(name.isdecimal() and name not in cells for name in columns)


def _check_header(
    where: str, cells: Sequence[str], columns: Collection[str] | None, all_needed: bool
) -> None:
    """Raises InputError for a header in which columns cannot be told apart or found."""
    names = [name for name in cells if name]
    twice = {name for name in names if names.count(name) > 1}
    if columns is not None:
        twice &= set(columns)
    shown = brief(", ".join(names))
    if twice and all_needed:
        raise InputError(
            f"{where}: column names must differ, but {sorted(twice)[0]!r} stands twice: {shown}"
        )
    if columns is None or set(columns) & set(names):
        return
    if len(cells) == 1:
        for sign, name in _SEPARATORS.items():
            if sign in cells[0]:
                raise InputError(
                    f"{where}: one column, {shown!r}: the cells seem to be separated by {name}; "
                    "write .csv with commas or .tsv with tabs"
                )
    raise InputError(
        f"{where}: no column that is known: {shown}; name them in corpus.columns or questions.columns, "
        "by number (1 is the first) where the file has no header"
    )


def _csv_cells(text: Iterable[str]) -> Iterator[list[str]]:
    csv.field_size_limit(sys.maxsize)  # a cell may hold a whole document
    return csv.reader(text, strict=True)


def _tsv_cells(text: Iterable[str]) -> Iterator[list[str]]:
    lines, ahead = iter(text), deque[str]()
    width = 0
    while (line := ahead.popleft() if ahead else next(lines, None)) is not None:
        cells = line.rstrip("\r\n").split("\t")
        if cells == [""]:
            yield []
            continue
        width = width or len(cells)
        if '"' not in line:
            yield cells
        elif any(cell.startswith('"') and not _QUOTED.fullmatch(cell) for cell in cells):
            yield _quoted_over_lines(line, lines, ahead, width) or cells
        else:
            yield [_unquoted(cell) for cell in cells]


def _quoted_over_lines(
    line: str, lines: Iterator[str], ahead: deque[str], width: int
) -> list[str] | None:
    """The cells of a line with a quoted cell that holds tabs or goes on over lines; None if none does.

    Following lines are read while a quote is open and no longer, so that a file is read in time by its
    length whatever its quotes.

    ahead: lines that were read and not used, before `lines`
    """
    is_whole = line.count("\t") + 1 == width
    cells: list[str] = []
    taken = at = 0
    while len(cells) < width:
        if not line.startswith('"', at):
            end = line.find("\t", at)
            end = len(line.rstrip("\r\n")) if end < 0 else end
            cells.append(line[at:end])
        else:
            pieces, at = [], at + 1
            while (closed := _TO_CLOSING_QUOTE.match(line, at)) is None:
                pieces.append(line[at:])
                following = _line_ahead(lines, ahead, taken)
                if following is None or (is_whole and following.count("\t") + 1 == width):
                    return None
                line, at, taken = following, 0, taken + 1
            end = closed.end()
            cells.append("".join((*pieces, line[at : end - 1])).replace('""', '"'))
        at = end + 1
        if not line.startswith("\t", end):
            break
    if len(cells) < width or line[end:].rstrip("\r\n") or (is_whole and not taken):
        return None
    for _ in range(taken):
        ahead.popleft()
    return cells


def _line_ahead(lines: Iterator[str], ahead: deque[str], number: int) -> str | None:
    """A line after the current one, from 0 on; None where there is none or a cell would be too long."""
    if number < len(ahead):
        return ahead[number]
    following = next(lines, None) if number < MAX_CELL_LINES else None
    if following is not None:
        ahead.append(following)
    return following


def _unquoted(cell: str) -> str:
    match = _QUOTED.fullmatch(cell)
    return match.group(1).replace('""', '"') if match else cell
