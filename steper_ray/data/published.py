"""The format of a source, recognised by the columns of its first rows.

A published data set whose rows bring passages with their questions is recognised unless the run file names
columns; every other source is a table of one question or one passage a row (`steper_ray.data.flat`).
"""

from collections.abc import Sequence
from typing import Final

from steper_ray.data.addresses import Source
from steper_ray.data.flat import (
    PASSAGE_LAYOUTS,
    QUESTION_LAYOUTS,
    asked_columns,
    passage_table,
    question_table,
)
from steper_ray.data.formats import JSON_COLUMNS, Format, Row, unwrapped
from steper_ray.data.multihop import HOTPOTQA, IRCOT, MUSIQUE, TWO_WIKI
from steper_ray.data.reading import DPR, MS_MARCO, SQUAD
from steper_ray.data.settings import PassageColumns, QuestionColumns
from steper_ray.data.tables import first_rows
from steper_ray.data.values import BEGINS_A_LIST, brief, listed
from steper_ray.errors import InputError

FORMATS: Final = (MUSIQUE, TWO_WIKI, HOTPOTQA, IRCOT, SQUAD, MS_MARCO, DPR)
"""Formats of rows with passages, in the order in which they are tried."""


ALIAS_COLUMNS: Final = frozenset(["Q_id", "aliases"])
"""Columns of 2WikiMultihopQA's file of other names."""


RECOGNISED_BY: Final = ALIAS_COLUMNS.union(
    *(format.columns for format in FORMATS),
    *(asked_columns(columns) for _, columns in (*QUESTION_LAYOUTS, *PASSAGE_LAYOUTS)),
)
"""The columns to read of the first rows."""


def recognise(row: Row) -> Format | None:
    """The format of rows with passages that a row is in; None for another."""
    row = unwrapped(row)
    return next((format for format in FORMATS if format.fits(row)), None)


def format_of(source: Source, columns: QuestionColumns | PassageColumns) -> Format | None:
    """The format of a source of questions or passages; None for a file of aliases.

    columns: the names in the run file; any but ours says that the source is a table
    """
    named = columns != type(columns)()
    rows = first_rows(source, asked_columns(columns) | (set() if named else RECOGNISED_BY))
    if not named:
        if any(row.keys() >= ALIAS_COLUMNS for row in rows):
            return None
        for format in map(recognise, rows):
            if format is not None:
                return format
        _refuse_unreadable(source, rows)
    if isinstance(columns, QuestionColumns):
        return question_table(columns, rows)
    return passage_table(columns, rows)


def _refuse_unreadable(source: Source, rows: Sequence[Row]) -> None:
    """Raises InputError where the nested columns of a data set are text that cannot be read: they would
    be dropped without a word."""
    for row in rows:
        for column in JSON_COLUMNS:
            value = row.get(column)
            if isinstance(value, str) and BEGINS_A_LIST.match(value) and listed(value) is value:
                raise InputError(
                    f"{source}: column {column!r} begins as a list or an object and cannot be read as "
                    f"one: {brief(value)}; write it as JSON, or name the columns to read"
                )
