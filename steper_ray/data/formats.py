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

from steper_ray.data.values import BEGINS_A_LIST, brief, is_missing, listed, texts_of, value_at
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
    *("positive_ctxs", "negative_ctxs", "hard_negative_ctxs"),
    *("supporting_facts", "evidences", "question_decomposition", "answers_objects"),
)
"""Columns that copies of published data sets have as text, such as 2WikiMultihopQA's on the Hub."""


def unwrapped(row: Row) -> Row:
    """A row with FlashRAG's `metadata` and `golden_answers` as columns, and lists and objects in text read.

    `answers` is read where it spells an object, as SQuAD's does: a list of gold answers is `answers_of`'s.
    """
    metadata = _read(row.get("metadata"))
    if isinstance(metadata, Mapping):
        row = {**metadata, **{name: value for name, value in row.items() if name != "metadata"}}
    if "golden_answers" in row:
        row = {**row, "answer": row["golden_answers"]}
    read = {name: listed(row[name]) for name in JSON_COLUMNS if isinstance(row.get(name), str)}
    answers = _read(row.get("answers"))
    if isinstance(answers, Mapping):
        read["answers"] = answers
    return {**row, **read} if read else row


def _read(value: object) -> object:
    """What a text spells; any other value as it is."""
    return listed(value) if isinstance(value, str) else value


def unwrapping(read: Callable[[str, Row], Read]) -> Callable[[str, Row], Read]:
    """The function of a row, called with the row unwrapped."""
    return lambda where, row: read(where, unwrapped(row))


def answers_of(where: str, row: Row, column: str) -> tuple[str, ...]:
    """The gold answers in a column: a text, a whole number, or a list of texts; () where there is none.

    A text that spells a list is that list. One that spells an object, or that begins as a list and is none
    that can be read, raises InputError: it would become the gold answer.
    """
    value = value_at(row, column)
    if isinstance(value, str):
        value = _spelled(where, column, value)
    if isinstance(value, bytes | list):
        items = value if isinstance(value, list) else [value]
        items = [_text(where, column, item) for item in items]
        return texts_of(where, {column: [item for item in items if not is_missing(item)]}, column)
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


def _spelled(where: str, column: str, text: str) -> str | list[Any]:
    """The list of texts that a text spells, else the text."""
    value = listed(text)
    if isinstance(value, list) and all(isinstance(v, str) or is_missing(v) for v in value):
        return value
    if isinstance(value, Mapping) or BEGINS_A_LIST.match(text):
        raise InputError(
            f"{where}: column {column!r} must be text or a list of texts "
            f'(in CSV: ["a", "b"]), got {brief(text)}'
        )
    return text


def _text(where: str, column: str, value: object) -> object:
    """The text that bytes are; any other value as it is."""
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise InputError(
            f"{where}: column {column!r} holds bytes that are no UTF-8: {brief(repr(value))}"
        ) from None


def all_or_none(ids: Sequence[str | None]) -> tuple[str, ...]:
    """The ids, each once, or none: part of the supporting passages would pass for all of them."""
    known = [id for id in ids if id is not None]
    return tuple(dict.fromkeys(known)) if len(known) == len(ids) else ()


def objects_of(where: str, row: Row, column: str, *texts: str) -> list[Row]:
    """A list of objects, each of which has the fields named, of text."""
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise InputError(
            f"{where}: column {column!r} must be a list of objects, got {brief(repr(value))}"
        )
    for at, item in enumerate(value):
        for name in texts:
            given = item.get(name)
            if not isinstance(given, str) or not is_unicode(given):
                raise InputError(
                    f"{where}: column '{column}[{at}].{name}' must be text, got {brief(repr(given))}"
                )
    return value


def contexts_of(where: str, row: Row, column: str, text: str) -> list[Passage]:
    """The passages of a list of objects.

    text: the field of a passage's text; its title is in `title`, where it has one
    """
    objects = [
        {**item, "title": ""} if is_missing(item.get("title")) else item
        for item in objects_of(where, row, column, text)
    ]
    titled = objects_of(where, {column: objects}, column, "title")
    return [hashed_passage(item["title"], item[text]) for item in titled]


def has_objects(row: Row, column: str, field: str) -> bool:
    """Whether a column is a list whose first item is an object with a field."""
    value = row.get(column)
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and field in value[0]
    )
