"""The rows of one JSON object.

| object | its rows |
|---|---|
| `{"data": [{…}, …], "version": 1}` | the one list of objects in it |
| SQuAD's `{"data": [{"title": …, "paragraphs": [{"context": …, "qas": […]}]}]}` | each question |
| HippoRAG's `{"Owl": ["Owls hunt.", …], …}` | each title with its sentences |
| columns as lists, or of numbered objects (`{"question": {"0": …}}`) | refused: they are no rows |
| any other | the object itself |
"""

from collections.abc import Iterator
from typing import Any, Final

from steper_ray.data.values import brief
from steper_ray.errors import InputError

Row = dict[str, Any]


ROW_NAMES: Final = frozenset(["id", "_id", "question", "query", "text", "contents", "passage"])
"""Columns that tell a row from an object around a list of rows."""


_NO_TITLES: Final = ROW_NAMES.union(
    ["ids", "questions", "queries", "texts", "passages", "title", "titles", "answer", "answers"],
    ["golden_answers", "answer_aliases", "supporting_ids", "hops", "context", "contexts", "pid"],
    ["query_id", "data", "rows", "documents", "train", "dev", "test", "validation"],
    ["splits", "features", "columns", "index"],
)
"""Names that an object of lists has where these are columns, or what `datasets` writes beside tables."""


def wrapped_rows(where: str, row: Row) -> list[Any] | None:
    """The rows that an object holds; None if it is a row itself.

    Raises InputError for an object of columns.
    """
    names = brief(", ".join(row))
    if row and all(map(_is_texts, row.values())):
        if all(name.lower() in _NO_TITLES for name in row):
            raise InputError(
                f"{where}: an object of lists ({names}), which are columns; write one object a row"
            )
        return [{"title": title, "text": sentences} for title, sentences in row.items()]
    if row and all(map(_is_numbered, row.values())):
        raise InputError(
            f"{where}: columns of numbered objects ({names}), as pandas writes them; write one object a "
            'row: to_json(…, orient="records", lines=True)'
        )
    if ROW_NAMES & row.keys():
        return None
    lists = [value for value in row.values() if value and _is_objects(value)]
    if len(lists) != 1:
        return None
    return list(_squad_rows(lists[0])) if any(map(_is_article, lists[0])) else lists[0]


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_objects(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _is_numbered(value: object) -> bool:
    return isinstance(value, dict) and bool(value) and all(name.isdecimal() for name in value)


def _is_article(item: Row) -> bool:
    """Whether an object is an article of SQuAD's files: paragraphs with a context."""
    paragraphs = item.get("paragraphs")
    if not paragraphs or not _is_objects(paragraphs):
        return False
    return all("context" in paragraph for paragraph in paragraphs)


def _squad_rows(articles: list[Row]) -> Iterator[Any]:
    """SQuAD's articles as the rows that its copy on the Hub has; a context without questions is one too."""
    for article in articles:
        if not _is_article(article):
            yield article
            continue
        for paragraph in article["paragraphs"]:
            shared = {"title": article.get("title"), "context": paragraph["context"]}
            questions = paragraph.get("qas") or [{"answers": []}]
            if not _is_objects(questions):
                yield questions
                continue
            for question in questions:
                yield {**question, **shared, "answers": _by_columns(question.get("answers"))}


def _by_columns(answers: Any) -> Any:
    """A list of answers as the object of lists that the Hub has."""
    if not _is_objects(answers):
        return answers
    return {"text": [answer.get("text") for answer in answers]}
