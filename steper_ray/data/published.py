"""HotpotQA, 2WikiMultihopQA and MuSiQue as their authors publish them → questions and passages.

| dataset | recognised by | its passages |
|---|---|---|
| HotpotQA, distractor and fullwiki (Yang et al. 2018) | `context` of titles with sentences | `context` |
| 2WikiMultihopQA (Ho et al. 2020) | the same, and `evidences` | `context` |
| MuSiQue, Ans and Full (Trivedi et al. 2022) | `paragraphs` with `paragraph_text` | `paragraphs` |

The raw files and their copies on the Hugging Face Hub differ in how `context` and `supporting_facts` are
nested, and both are read. A passage's id is a hash of its title and text, so questions name their
supporting passages without the corpus being at hand, and the same passage of two questions is one.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from steper_ray.data.tables import has_surrogate, text_of, texts_of
from steper_ray.errors import InputError
from steper_ray.schema import Passage, Question

Row = Mapping[str, Any]


UnusableRow = Literal["unanswerable", "no_answer"]
"""Why a row that is in order is no question to learn from or to be measured by."""


@dataclass(frozen=True, slots=True)
class Format:
    """One published format. Both functions raise InputError for a broken row."""

    name: str
    passages: Callable[[str, Row], list[Passage]]
    """(where, row) → the passages given with the question; title or text may be empty."""
    question: Callable[[str, Row], Question | UnusableRow]
    """(where, row) → the question, or why there is none."""


def recognise(row: Row) -> Format | None:
    """The published format that a row is in, by its columns and their nesting; None for another."""
    if _has_paragraphs(row.get("paragraphs")) and "question" in row and "id" in row:
        return MUSIQUE
    if "question" in row and ("_id" in row or "id" in row) and _has_context(row):
        return TWO_WIKI if "evidences" in row else HOTPOTQA
    return None


def passage_id(title: str, text: str) -> str:
    """16 hexadecimal digits of the hash of title and text: the same wherever the passage comes from."""
    return hashlib.sha256(json.dumps([title, text]).encode()).hexdigest()[:16]


def join_sentences(sentences: Sequence[str]) -> str:
    """The text that sentences are of: HotpotQA's keep the space before them, 2WikiMultihopQA's do not."""
    spaced = any(sentence[:1].isspace() for sentence in sentences[1:])
    return ("" if spaced else " ").join(sentences).strip()


def _passage(title: str, text: str) -> Passage:
    title, text = title.strip(), text.strip()
    return Passage(passage_id(title, text), title, text)


def _has_context(row: Row) -> bool:
    context = row.get("context")
    if isinstance(context, Mapping):
        return "title" in context and ("sentences" in context or "content" in context)
    if not isinstance(context, list):
        return False
    if not context:
        return "_id" in row
    first = context[0]
    return isinstance(first, list) and len(first) == 2 and isinstance(first[1], list)


def _has_paragraphs(value: object) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and isinstance(value[0], Mapping)
        and "paragraph_text" in value[0]
    )


def _hotpotqa_passages(where: str, row: Row) -> list[Passage]:
    context = row.get("context")
    if isinstance(context, Mapping):
        context = _pairs(context, "title", "sentences" if "sentences" in context else "content")
    if not isinstance(context, list) or not all(map(_is_paragraph, context)):
        raise InputError(
            f"{where}: column 'context' must be a list of [title, [sentence, …]], got {_brief(context)}"
        )
    return [_passage(title, join_sentences(sentences)) for title, sentences in context]


def _hotpotqa_question(where: str, row: Row) -> Question | UnusableRow:
    id = text_of(where, row, "_id" if "_id" in row else "id")
    question = text_of(where, row, "question")
    if _is_blank(row.get("answer")):
        return "no_answer"
    facts = row.get("supporting_facts") or []
    if isinstance(facts, Mapping):
        facts = _pairs(facts, "title", "sent_id")
    if not isinstance(facts, list) or not all(map(_is_fact, facts)):
        raise InputError(
            f"{where}: column 'supporting_facts' must be a list of [title, sentence], got {_brief(facts)}"
        )
    titles = list(dict.fromkeys(title.strip() for title, _ in facts))
    passages = reversed(_hotpotqa_passages(where, row))  # the first of a title counts
    ids = {passage.title: passage.id for passage in passages if passage.text}
    return Question(
        id=id,
        question=question,
        answer=text_of(where, row, "answer"),
        supporting_ids=_all_or_none([ids.get(title) for title in titles]),
        hops=len(titles) or None,
    )


def _musique_passages(where: str, row: Row) -> list[Passage]:
    return [
        _passage(paragraph["title"], paragraph["paragraph_text"])
        for paragraph in _objects(where, row, "paragraphs", title=str, paragraph_text=str)
    ]


def _musique_question(where: str, row: Row) -> Question | UnusableRow:
    id, question = text_of(where, row, "id"), text_of(where, row, "question")
    if row.get("answerable") is False:
        return "unanswerable"
    if _is_blank(row.get("answer")):
        return "no_answer"
    paragraphs = _objects(where, row, "paragraphs", idx=int)
    passages = zip(paragraphs, _musique_passages(where, row), strict=True)
    ids = {paragraph["idx"]: passage.id for paragraph, passage in passages if passage.text}
    hops = _objects(where, row, "question_decomposition")
    supporting = [ids.get(hop.get("paragraph_support_idx")) for hop in hops]
    return Question(
        id=id,
        question=question,
        answer=text_of(where, row, "answer"),
        answer_aliases=texts_of(where, row, "answer_aliases"),
        supporting_ids=_all_or_none(supporting),
        hops=len(hops) or None,
    )


HOTPOTQA: Final = Format("HotpotQA", _hotpotqa_passages, _hotpotqa_question)


TWO_WIKI: Final = Format("2WikiMultihopQA", _hotpotqa_passages, _hotpotqa_question)


MUSIQUE: Final = Format("MuSiQue", _musique_passages, _musique_question)


def _all_or_none(ids: Sequence[str | None]) -> tuple[str, ...]:
    """The ids, each once, or none: part of the supporting passages would pass for all of them."""
    known = [id for id in ids if id is not None]
    return tuple(dict.fromkeys(known)) if len(known) == len(ids) else ()


def _objects(where: str, row: Row, column: str, **fields: type) -> list[Row]:
    """A list of objects, each of which has the fields named."""
    value = row.get(column)
    if not isinstance(value, list) or not all(isinstance(item, Mapping) for item in value):
        raise InputError(
            f"{where}: column {column!r} must be a list of objects, got {_brief(value)}"
        )
    for at, item in enumerate(value):
        for name, kind in fields.items():
            given = item.get(name)
            if not isinstance(given, kind) or (isinstance(given, str) and has_surrogate(given)):
                raise InputError(
                    f"{where}: column '{column}[{at}].{name}' must be {_KINDS[kind]}, "
                    f"got {_brief(given)}"
                )
    return value


_KINDS: Final = {str: "text", int: "an integer"}


def _pairs(columns: Row, first: str, second: str) -> list[list[Any]] | None:
    """The Hub's {first: […], second: […]} as the raw files' [[first, second], …]."""
    firsts, seconds = columns.get(first), columns.get(second)
    if not isinstance(firsts, list) or not isinstance(seconds, list) or len(firsts) != len(seconds):
        return None
    return [[title, value] for title, value in zip(firsts, seconds, strict=True)]


def _is_paragraph(item: object) -> bool:
    return (
        isinstance(item, list)
        and len(item) == 2
        and isinstance(item[1], list)
        and all(isinstance(text, str) and not has_surrogate(text) for text in [item[0], *item[1]])
    )


def _is_fact(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)


def _is_blank(answer: object) -> bool:
    return answer is None or (isinstance(answer, str) and not answer.strip())


def _brief(value: object, longest: int = 80) -> str:
    shown = repr(value)
    return shown if len(shown) <= longest else f"{shown[:longest]}…"
