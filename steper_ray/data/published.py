"""The format of a source, recognised by the columns of its first row.

A published data set whose rows bring passages with their questions is recognised unless the run file names
columns; every other source is a table of one question or one passage a row (`steper_ray.data.flat`).
"""

from typing import Final

from steper_ray.data.addresses import Source
from steper_ray.data.flat import (
    PASSAGE_LAYOUTS,
    QUESTION_LAYOUTS,
    asked_columns,
    passage_table,
    question_table,
)
from steper_ray.data.formats import Format, Row, unwrapped
from steper_ray.data.multihop import HOTPOTQA, IRCOT, MUSIQUE, TWO_WIKI
from steper_ray.data.reading import DPR, MS_MARCO, SQUAD
from steper_ray.data.settings import PassageColumns, QuestionColumns
from steper_ray.data.tables import first_row

FORMATS: Final = (MUSIQUE, TWO_WIKI, HOTPOTQA, IRCOT, SQUAD, MS_MARCO, DPR)
"""Formats of rows with passages, in the order in which they are tried."""


ALIAS_COLUMNS: Final = frozenset(["Q_id", "aliases"])
"""Columns of 2WikiMultihopQA's file of other names."""


RECOGNISED_BY: Final = ALIAS_COLUMNS.union(
    *(format.columns for format in FORMATS),
    *(asked_columns(columns) for _, columns in (*QUESTION_LAYOUTS, *PASSAGE_LAYOUTS)),
)
"""The columns to read of a first row."""


def recognise(row: Row) -> Format | None:
    """The format of rows with passages that a row is in; None for another."""
    row = unwrapped(row)
    return next((format for format in FORMATS if format.fits(row)), None)


def format_of(source: Source, columns: QuestionColumns | PassageColumns) -> Format | None:
    """The format of a source of questions or passages; None for a file of aliases.

    columns: the names in the run file; any but ours says that the source is a table
    """
    named = columns != type(columns)()
    first = first_row(source, asked_columns(columns) | (set() if named else RECOGNISED_BY))
    if first is not None and not named:
        if first.keys() >= ALIAS_COLUMNS:
            return None
        if (format := recognise(first)) is not None:
            return format
    if isinstance(columns, QuestionColumns):
        return question_table(columns, first)
    return passage_table(columns, first)
