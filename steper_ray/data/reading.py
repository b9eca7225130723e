"""SQuAD, MS MARCO and DPR's training files: questions with the passages that they are asked about.

| dataset | recognised by | its passages |
|---|---|---|
| SQuAD and the like (Rajpurkar et al. 2016) | `context`, `answers` with `text` | `context` |
| MS MARCO (Bajaj et al. 2016) | `query`, and `passages` with `passage_text` | `passages` |
| DPR's retriever data (Karpukhin et al. 2020) | `positive_ctxs` and `answers` | `…_ctxs` |

The nesting of SQuAD's own files is undone by `steper_ray.data.json_objects`.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from steper_ray.data.formats import (
    Format,
    Row,
    UnusableRow,
    answers_of,
    contexts_of,
    has_objects,
    hashed_passage,
    objects_of,
    question_id,
    unwrapping,
)
from steper_ray.data.values import brief, is_missing, text_of, texts_of, truth_of
from steper_ray.errors import InputError
from steper_ray.schema import Passage, Question

NO_ANSWER: Final = "No Answer Present."
"""MS MARCO's answer to a question that its passages do not answer."""


def _is_squad(row: Row) -> bool:
    answers = row.get("answers")
    has_text = isinstance(answers, Mapping) and "text" in answers
    return "question" in row and isinstance(row.get("context"), str) and has_text


def _squad_passages(where: str, row: Row) -> list[Passage]:
    title = text_of(where, row, "title", may_be_empty=True) if "title" in row else ""
    return [hashed_passage(title, text_of(where, row, "context"))]


def _squad_question(where: str, row: Row) -> Question | UnusableRow:
    given = row.get("answers")
    if not isinstance(given, Mapping) and not is_missing(given):
        raise InputError(
            f"{where}: column 'answers' must be an object with 'text', got {brief(repr(given))}"
        )
    answers = tuple(dict.fromkeys(answers_of(where, row, "answers.text")))
    if not answers and "question" not in row and "context" in row:
        return "no_answer"  # a context that nothing is asked about
    question = text_of(where, row, "question")
    if not answers:
        return "unanswerable"
    return _question(where, row, "id", question, answers, _squad_passages(where, row))


def _is_ms_marco(row: Row) -> bool:
    passages = row.get("passages")
    listed = isinstance(passages, Mapping) and "passage_text" in passages
    return "query" in row and (listed or has_objects(row, "passages", "passage_text"))


def _ms_marco_texts(where: str, row: Row) -> list[tuple[str, bool]]:
    """The text of each passage, and whether the answer was written from it."""
    passages = row.get("passages")
    if not isinstance(passages, Mapping):
        passages = objects_of(where, row, "passages", "passage_text")
        texts = [each["passage_text"] for each in passages]
        return _with_marks(where, texts, [each.get("is_selected") for each in passages])
    texts = list(texts_of(where, row, "passages.passage_text"))
    marks = passages.get("is_selected")
    if not isinstance(marks, list) or len(marks) != len(texts):
        raise InputError(
            f"{where}: column 'passages.is_selected' must be a list as long as the passages, "
            f"got {brief(repr(marks))}"
        )
    return _with_marks(where, texts, marks)


def _with_marks(
    where: str, texts: Sequence[str], marks: Sequence[object]
) -> list[tuple[str, bool]]:
    here = f"{where}: an 'is_selected'"
    return [
        (text, truth_of(here, mark, if_missing=False))
        for text, mark in zip(texts, marks, strict=True)
    ]


def _ms_marco_passages(where: str, row: Row) -> list[Passage]:
    return [hashed_passage("", text) for text, _ in _ms_marco_texts(where, row)]


def _ms_marco_question(where: str, row: Row) -> Question | UnusableRow:
    question = text_of(where, row, "query")
    answers = answers_of(where, row, "answers")
    if NO_ANSWER in answers:
        return "unanswerable"
    if not answers:
        return "no_answer"
    selected = [hashed_passage("", text) for text, marked in _ms_marco_texts(where, row) if marked]
    # several selected passages each answer the question: no chain of hops
    return _question(where, row, "query_id", question, answers, selected[:1])


def _is_dpr(row: Row) -> bool:
    has_contexts = row.get("positive_ctxs") == [] or has_objects(row, "positive_ctxs", "text")
    return "question" in row and "answers" in row and has_contexts


def _dpr_passages(where: str, row: Row) -> list[Passage]:
    return [
        passage
        for column in ("positive_ctxs", "negative_ctxs", "hard_negative_ctxs")
        if not is_missing(row.get(column))
        for passage in contexts_of(where, row, column, "text")
    ]


def _dpr_question(where: str, row: Row) -> Question | UnusableRow:
    question = text_of(where, row, "question")
    answers = answers_of(where, row, "answers")
    return _question(where, row, "id", question, answers, []) if answers else "no_answer"


def _question(
    where: str,
    row: Row,
    id_column: str,
    question: str,
    answers: tuple[str, ...],
    supporting: list[Passage],
) -> Question:
    """A question that one passage answers."""
    id = (
        text_of(where, row, id_column, integers=True)
        if id_column in row
        else question_id(question, answers[0])
    )
    return Question(
        id=id,
        question=question,
        answer=answers[0],
        answer_aliases=answers[1:],
        supporting_ids=tuple(passage.id for passage in supporting),
        hops=1 if supporting else None,
    )


SQUAD: Final = Format(
    "SQuAD",
    frozenset(["id", "title", "context", "question", "answers"]),
    _is_squad,
    unwrapping(_squad_passages),
    unwrapping(_squad_question),
)


MS_MARCO: Final = Format(
    "MS MARCO",
    frozenset(["query_id", "query", "answers", "passages"]),
    _is_ms_marco,
    unwrapping(_ms_marco_passages),
    unwrapping(_ms_marco_question),
    "query_id",
)


DPR: Final = Format(
    "DPR",
    frozenset(
        ["id", "question", "answers", "positive_ctxs", "negative_ctxs", "hard_negative_ctxs"]
    ),
    _is_dpr,
    unwrapping(_dpr_passages),
    unwrapping(_dpr_question),
)
