"""What a format of rows is: the columns it is recognised by, and how questions and passages are read.

Formats of published data sets whose rows bring passages with their questions are in
`steper_ray.data.multihop` and `steper_ray.data.reading`; tables of one question or one passage a row are in
`steper_ray.data.flat`. A passage's id is a hash of its title and text wherever a source gives none, so
questions name their supporting passages without the corpus being at hand, and the same passage of two
questions is one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from steper_ray.data.values import brief, is_missing, listed, texts_of, value_at
from steper_ray.errors import InputError
from steper_ray.schema import Passage, Question
from steper_ray.text import is_unicode

Row = Mapping[str, Any]


Read = TypeVar("Read")


UnusableRow = Literal["unanswerable", "no_answer", "duplicate"]
"""Why a row that is in order is no question to learn from or to be measured by."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format of rows. Both functions raise InputError for a broken row."""

    name: str
    columns: frozenset[str]
    """The columns to read, with dots for fields inside objects."""
    fits: Callable[[Row], bool]
    """Whether a row is in the format, by its columns and their nesting."""
    passages: Callable[[str, Row], list[Passage]] | None = None
    """(where, row) → the passages of the row; title or text may be empty. None: a row brings none."""
    question: Callable[[str, Row], Question | UnusableRow] | None = None
    """(where, row) → the question, or why there is none. None: a row is no question."""
    id_column: str | None = "id"
    """Column of the ids that a table gives; None where ids are hashes."""


def passage_id(title: str, text: str) -> str:
    """16 hexadecimal digits of the hash of title and text: the same wherever the passage comes from."""
    return hashlib.sha256(json.dumps([title, text]).encode()).hexdigest()[:16]


def question_id(question: str, answer: str) -> str:
    """16 hexadecimal digits of the hash of question and answer, for files that give no ids."""
    return hashlib.sha256(json.dumps([question, answer]).encode()).hexdigest()[:16]


def join_sentences(sentences: Sequence[str]) -> str:
    """The text that sentences are of: HotpotQA's keep the space before them, 2WikiMultihopQA's do not."""
    spaced = any(sentence[:1].isspace() for sentence in sentences[1:])
    return ("" if spaced else " ").join(sentences).strip()


def hashed_passage(title: str, text: str) -> Passage:
    """The passage of a title and a text, by the hash of both."""
    title, text = title.strip(), text.strip()
    return Passage(passage_id(title, text), title, text)


JSON_COLUMNS: Final = (
    *("context", "contexts", "paragraphs", "passages"),
    *("supporting_facts", "evidences", "question_decomposition", "answers_objects"),
)
"""Columns that copies of published data sets have as JSON text, such as 2WikiMultihopQA's on the Hub."""


def unwrapped(row: Row) -> Row:
    """A row with FlashRAG's `metadata` and `golden_answers` as columns, and with JSON text read."""
    metadata = row.get("metadata")
    if isinstance(metadata, Mapping):
        row = {**metadata, **{name: value for name, value in row.items() if name != "metadata"}}
    if "golden_answers" in row:
        row = {**row, "answer": row["golden_answers"]}
    read = {name: listed(row[name]) for name in JSON_COLUMNS if isinstance(row.get(name), str)}
    return {**row, **read} if read else row


def unwrapping(read: Callable[[str, Row], Read]) -> Callable[[str, Row], Read]:
    """The function of a row, called with the row unwrapped."""
    return lambda where, row: read(where, unwrapped(row))


def answers_of(where: str, row: Row, column: str) -> tuple[str, ...]:
    """The gold answers in a column: a text, a whole number, or a list of texts; () where there is none."""
    value = value_at(row, column)
    if isinstance(value, str):
        spelled = listed(value)
        value = spelled if _is_texts(spelled) else value
    if isinstance(value, bytes | list):
        value = [value] if isinstance(value, bytes) else value
        row = {column: [_text(item) for item in value]}
        return tuple(text for text in texts_of(where, row, column) if not is_missing(text))
    if is_missing(value):
        return ()
    if isinstance(value, int) and not isinstance(value, bool):
        return (str(value),)
    if not isinstance(value, str):
        raise InputError(
            f"{where}: column {column!r} must be text and not empty, or a list of texts, "
            f"got {brief(repr(value))}"
        )
    if not is_unicode(value):
        raise InputError(f"{where}: column {column!r} holds a lone surrogate")
    return (value,)


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def all_or_none(ids: Sequence[str | None]) -> tuple[str, ...]:
    """The ids, each once, or none: part of the supporting passages would pass for all of them."""
    known = [id for id in ids if id is not None]
    return tuple(dict.fromkeys(known)) if len(known) == len(ids) else ()


def objects_of(where: str, row: Row, column: str, **fields: type) -> list[Row]:
    """A list of objects, each of which has the fields named."""
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise InputError(
            f"{where}: column {column!r} must be a list of objects, got {brief(repr(value))}"
        )
    for at, item in enumerate(value):
        for name, kind in fields.items():
            given = item.get(name)
            if not isinstance(given, kind) or (isinstance(given, str) and not is_unicode(given)):
                raise InputError(
                    f"{where}: column '{column}[{at}].{name}' must be {_KINDS[kind]}, "
                    f"got {brief(repr(given))}"
                )
    return value


_KINDS: Final = {str: "text", int: "an integer"}


def has_objects(row: Row, column: str, field: str) -> bool:
    """Whether a column is a list whose first item is an object with a field."""
    value = row.get(column)
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and field in value[0]
    )
