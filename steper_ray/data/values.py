"""Values in the cells of a row: texts, lists of texts, whole numbers, and what counts as none.

A column's name may lead into objects by dots: `metadata.answer`, unless the row has a column of that very
name. None, NaN (pandas' word for it) and text without a visible character are no value.
"""

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

from steper_ray.data.literals import read_literal
from steper_ray.errors import InputError
from steper_ray.text import is_unicode

MAX_NUMBER: Final = 2**31 - 1
"""Largest whole number that a column of the files we write takes."""


MAX_LABEL: Final = 60
"""Characters of a label; what is longer is some other text."""


BEGINS_A_LIST: Final = re.compile(r"""\s*+(?:array\(|[\[{][\[{\s]*+(?:b?['"]|array\())""")
"""How a list or object of texts begins, in JSON or as Python, pandas and numpy write it."""


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, or of a field inside objects; None where there is none."""
    if column in row or "." not in column:
        return row.get(column)
    value: Any = row
    for name in column.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def has_column(row: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a column, with a value or without one."""
    outer, dot, name = column.rpartition(".")
    if column in row or not dot:
        return column in row
    inner = value_at(row, outer)
    return isinstance(inner, Mapping) and name in inner


def is_missing(value: object) -> bool:
    """Whether a cell is empty: None, NaN, or text without a visible character."""
    if isinstance(value, str):
        return is_blank(value)
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: spaces, line ends, characters of no width."""
    seen = text.strip()
    if seen and seen[0].isprintable():
        return False
    return all(sign.isspace() or unicodedata.category(sign) in ("Cf", "Cc") for sign in seen)


_TRUTH: Final = {
    **dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True),
    **dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False),
}
"""What a cell says that holds a truth value, in small letters."""


def truth_of(where: str, value: object, if_missing: bool) -> bool:
    """What a cell says that holds a truth value, as such, as a number or as a word.

    where: names file, row and column in the InputError of a cell that says neither
    """
    if is_missing(value):
        return if_missing
    said = str(value).strip().lower()
    if not isinstance(value, str | bool | int | float) or said not in _TRUTH:
        raise InputError(f"{where} must be true or false, got {brief(repr(value))}")
    return _TRUTH[said]


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
    may_be_empty: no value is an empty text
    setting: what names the column in the run file; empty for the columns of a published format
    """
    if not has_column(row, column):
        remedy = f"; name it in {setting}" if setting else ""
        raise InputError(
            f"{where}: no column {column!r}; the row has {brief(', '.join(sorted(row)))}{remedy}"
        )
    value = value_at(row, column)
    if isinstance(value, bytes):
        with suppress(UnicodeDecodeError):  # said below
            value = value.decode()
    if integers and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if may_be_empty and is_missing(value):
        return ""
    if not isinstance(value, str) or is_blank(value):
        raise InputError(
            f"{where}: column {column!r} must be text and not empty, got {brief(repr(value))}"
        )
    if not is_unicode(value):
        raise InputError(f"{where}: column {column!r} holds a lone surrogate")
    return value


def texts_of(where: str, row: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The list of texts in an optional column, or such a list as text; () where there is none.

    As text it is JSON, or what Python, pandas and numpy write for a list.
    """
    value = value_at(row, column)
    if is_missing(value):
        return ()
    if isinstance(value, str):
        value = listed(value)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(
            f"{where}: column {column!r} must be a list of texts "
            f'(in CSV: ["a", "b"]), got {brief(repr(value))}'
        )
    if not all(map(is_unicode, value)):
        raise InputError(f"{where}: column {column!r} holds a lone surrogate")
    return tuple(value)


def listed(text: str) -> Any:
    """The list or object that a text spells, in JSON or as Python and numpy write it; else the text."""
    if not text.lstrip().startswith(("[", "{", "(", "array(")):
        return text
    with suppress(ValueError, RecursionError):
        return json.loads(text)
    with suppress(ValueError, SyntaxError, RecursionError):
        return read_literal(text)
    return text


def label_of(row: Mapping[str, Any], column: str) -> str | None:
    """The short text in an optional column; None where there is something else, or nothing."""
    value = value_at(row, column)
    return (
        value
        if isinstance(value, str) and 0 < len(value) <= MAX_LABEL and value.isprintable()
        else None
    )


def whole_number_of(where: str, row: Mapping[str, Any], column: str) -> int | None:
    """The positive whole number in an optional column; None where there is none.

    `2.0` and "2.0" are 2: pandas makes floats of whole numbers where one is missing.
    """
    given = value = value_at(row, column)
    if is_missing(value):
        return None
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= MAX_NUMBER:
        return value
    raise InputError(
        f"{where}: column {column!r} must be a positive integer or absent, got {brief(repr(given))}"
    )


def brief(shown: str, longest: int = 80) -> str:
    """A value in a message, cut after `longest` characters."""
    return shown if len(shown) <= longest else f"{shown[:longest]}…"
