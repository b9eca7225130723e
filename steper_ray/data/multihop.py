"""HotpotQA, 2WikiMultihopQA and MuSiQue as their authors publish them, and as IRCoT processed them.

| dataset | recognised by | its passages |
|---|---|---|
| HotpotQA, distractor and fullwiki (Yang et al. 2018) | `context` of titles with sentences | `context` |
| 2WikiMultihopQA (Ho et al. 2020) | the same, and `evidences` | `context` |
| MuSiQue, Ans and Full (Trivedi et al. 2022) | `paragraphs` with `paragraph_text` | `paragraphs` |
| any of them, processed by IRCoT (Trivedi et al. 2023) | `contexts` with `paragraph_text` | `contexts` |

The raw files and their copies differ in how `context` and `supporting_facts` are nested (the Hub's have
columns of lists, some JSON text, FlashRAG's stand under `metadata`), and all are read.
"""

from collections.abc import Mapping
from typing import Any, Final

from steper_ray.data.formats import (
    Format,
    Row,
    UnusableRow,
    all_or_none,
    answers_of,
    contexts_of,
    has_objects,
    hashed_passage,
    join_sentences,
    objects_of,
    unwrapping,
)
from steper_ray.data.values import brief, is_missing, label_of, text_of, texts_of, truth_of
from steper_ray.errors import InputError
from steper_ray.schema import Passage, Question
from steper_ray.text import is_unicode, unescaped


def _is_hotpotqa(row: Row) -> bool:
    return "question" in row and ("_id" in row or "id" in row) and _has_context(row)


def _is_two_wiki(row: Row) -> bool:
    return "evidences" in row and _is_hotpotqa(row)


def _is_musique(row: Row) -> bool:
    return "question" in row and "id" in row and has_objects(row, "paragraphs", "paragraph_text")


def _is_ircot(row: Row) -> bool:
    return "question_text" in row and has_objects(row, "contexts", "paragraph_text")


def _has_context(row: Row) -> bool:
    context = row.get("context")
    if isinstance(context, Mapping):
        return "title" in context and ("sentences" in context or "content" in context)
    if not isinstance(context, list):
        return False
    if not context:
        return "_id" in row or "supporting_facts" in row
    first = context[0]
    return isinstance(first, list) and len(first) >= 2 and isinstance(first[1], list)


def _hotpotqa_passages(where: str, row: Row) -> list[Passage]:
    context = row.get("context")
    if isinstance(context, Mapping):
        context = _pairs(context, "title", "sentences" if "sentences" in context else "content")
    if not isinstance(context, list) or not all(map(_is_paragraph, context)):
        raise InputError(
            f"{where}: column 'context' must be a list of [title, [sentence, …]], "
            f"got {brief(repr(context))}"
        )
    return [
        hashed_passage("" if is_missing(title) else title, join_sentences(sentences))
        for title, sentences in context
    ]


def _hotpotqa_question(where: str, row: Row) -> Question | UnusableRow:
    id = text_of(where, row, "_id" if "_id" in row else "id", integers=True)
    question = text_of(where, row, "question")
    answers = answers_of(where, row, "answer")
    if not answers:
        return "no_answer"
    facts = row.get("supporting_facts") or []
    if isinstance(facts, Mapping):
        facts = _pairs(facts, "title", "sent_id")
    if not isinstance(facts, list) or not all(map(_is_fact, facts)):
        raise InputError(
            f"{where}: column 'supporting_facts' must be a list of [title, sentence], "
            f"got {brief(repr(facts))}"
        )
    titles = list(dict.fromkeys(_plain(fact[0]) for fact in facts))
    passages = reversed(_hotpotqa_passages(where, row))  # the first of a title counts
    ids = {_plain(passage.title): passage.id for passage in passages if passage.text}
    return Question(
        id=id,
        question=question,
        answer=answers[0],
        answer_aliases=answers[1:],
        supporting_ids=all_or_none([ids.get(title) for title in titles]),
        hops=len(titles) or None,
        type=label_of(row, "type"),
    )


def _plain(title: str) -> str:
    """A title to compare: some copies have `&amp;` in the context and `&` in the facts."""
    return unescaped(title).strip()


def _musique_passages(where: str, row: Row) -> list[Passage]:
    return contexts_of(where, row, "paragraphs", "paragraph_text")


def _musique_question(where: str, row: Row) -> Question | UnusableRow:
    id, question = text_of(where, row, "id"), text_of(where, row, "question")
    if not truth_of(f"{where}: column 'answerable'", row.get("answerable"), if_missing=True):
        return "unanswerable"
    answers = answers_of(where, row, "answer")
    if not answers:
        return "no_answer"
    supporting = _musique_supporting(where, row)
    return Question(
        id=id,
        question=question,
        answer=answers[0],
        answer_aliases=(*answers[1:], *texts_of(where, row, "answer_aliases")),
        supporting_ids=all_or_none(supporting),
        hops=len(supporting) or None,
        type=_musique_type(id),
    )


def _musique_type(id: str) -> str | None:
    """How its hops follow on each other, which the id begins with: `3hop1`."""
    shape, _, rest = id.partition("__")
    return shape if rest and shape[1:].startswith("hop") else None


def _musique_supporting(where: str, row: Row) -> list[str | None]:
    """Ids of the passages that the hops name, in their order; without hops those marked as supporting."""
    passages = _musique_passages(where, row)
    if "question_decomposition" not in row:
        return [*_marked(where, row["paragraphs"], passages)]
    paragraphs = objects_of(where, row, "paragraphs")
    ids = {
        _index(f"{where}: column 'paragraphs[{at}].idx'", paragraph.get("idx")): passage.id
        for at, (paragraph, passage) in enumerate(zip(paragraphs, passages, strict=True))
        if passage.text
    }
    named = [
        hop.get("paragraph_support_idx") for hop in objects_of(where, row, "question_decomposition")
    ]
    return [
        None if is_missing(index) else ids.get(_index(f"{where}: a 'paragraph_support_idx'", index))
        for index in named
    ]


def _index(where: str, value: object) -> int:
    """A number of a paragraph, also as a float or text, which some copies have."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{where} must be an integer, got {brief(repr(value))}")
    return value


def _marked(where: str, paragraphs: list[Row], passages: list[Passage]) -> list[str | None]:
    """Ids of the passages whose paragraphs are marked as supporting; None for one without text."""
    return [
        passage.id if passage.text else None
        for paragraph, passage in zip(paragraphs, passages, strict=True)
        if truth_of(
            f"{where}: an 'is_supporting'", paragraph.get("is_supporting"), if_missing=False
        )
    ]


def _ircot_passages(where: str, row: Row) -> list[Passage]:
    return contexts_of(where, row, "contexts", "paragraph_text")


def _ircot_question(where: str, row: Row) -> Question | UnusableRow:
    id, question = text_of(where, row, "question_id"), text_of(where, row, "question_text")
    objects = objects_of(where, row, "answers_objects") if "answers_objects" in row else []
    answers = [text for given in objects if (text := _ircot_answer(where, given))]
    if not answers:
        return "no_answer"
    supporting = _marked(where, row["contexts"], _ircot_passages(where, row))
    return Question(
        id=id,
        question=question,
        answer=answers[0],
        answer_aliases=tuple(dict.fromkeys(answers[1:])),
        supporting_ids=all_or_none(supporting),
        hops=len(supporting) or None,
    )


def _ircot_answer(where: str, given: Row) -> str:
    """One accepted answer: spans (several are one answer, as in DROP), a number or a date; else ""."""
    if spans := answers_of(f"{where}: answers_objects", given, "spans"):
        return ", ".join(spans)
    if number := answers_of(f"{where}: answers_objects", given, "number"):
        return number[0]
    date = given.get("date")
    parts = (
        [date.get(name) for name in ("day", "month", "year")] if isinstance(date, Mapping) else []
    )
    return " ".join(str(part).strip() for part in parts if not is_missing(part))


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
        and (item[0] is None or isinstance(item[0], str))
        and all(isinstance(text, str) and is_unicode(text) for text in [item[0] or "", *item[1]])
    )


def _is_fact(item: object) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str)


_HOTPOTQA_COLUMNS: Final = frozenset(
    [
        *("_id", "id", "question", "answer", "golden_answers", "type"),
        *("context", "supporting_facts", "metadata"),
    ]
)


HOTPOTQA: Final = Format(
    "HotpotQA",
    _HOTPOTQA_COLUMNS,
    _is_hotpotqa,
    unwrapping(_hotpotqa_passages),
    unwrapping(_hotpotqa_question),
)


TWO_WIKI: Final = Format(
    "2WikiMultihopQA",
    _HOTPOTQA_COLUMNS | {"evidences", "answer_id"},
    _is_two_wiki,
    unwrapping(_hotpotqa_passages),
    unwrapping(_hotpotqa_question),
)


MUSIQUE: Final = Format(
    "MuSiQue",
    frozenset(
        (
            *("id", "question", "answer", "golden_answers", "answer_aliases", "answerable"),
            *("metadata", "paragraphs", "question_decomposition"),
        )
    ),
    _is_musique,
    unwrapping(_musique_passages),
    unwrapping(_musique_question),
)


IRCOT: Final = Format(
    "IRCoT",
    frozenset(["question_id", "question_text", "answers_objects", "contexts"]),
    _is_ircot,
    unwrapping(_ircot_passages),
    unwrapping(_ircot_question),
    "question_id",
)
