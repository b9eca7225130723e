"""Questions with their gold answers, from JSONL or Parquet.

Columns: `id`, `question`, `answer`; optional `answer_aliases` (list of text), `supporting_ids` (list
of passage ids in chain order) and `hops` (integer).
"""

from pathlib import Path

from steper_ray.errors import InputError
from steper_ray.rows import input_files, read_rows, text_of, texts_of
from steper_ray.schema import Question
from steper_ray.section import Section


class QuestionsConfig(Section):
    """The questions of each split: a .jsonl or .parquet file, or a folder of them."""

    train: str = ""
    """Questions the teacher answers to make training data."""
    dev: str = ""
    """Held-out questions for evaluation; settings may be chosen on them."""
    test: str = ""
    """Held-out questions that nothing is chosen on, for `steper compare`."""


def read_questions(path: str, what: str) -> list[Question]:
    """All questions behind a path, in file order.

    what: names the input in errors, as `questions.train`
    Raises InputError with file, row and column for the first row that cannot be used.
    """
    questions: list[Question] = []
    first_seen: dict[str, tuple[Path, int]] = {}
    for file in input_files(path, what):
        for number, row in read_rows(file):
            question = Question(
                id=text_of(file, number, row, "id"),
                question=text_of(file, number, row, "question"),
                answer=text_of(file, number, row, "answer"),
                answer_aliases=texts_of(file, number, row, "answer_aliases"),
                supporting_ids=texts_of(file, number, row, "supporting_ids"),
                hops=_hops(file, number, row.get("hops")),
            )
            if question.id in first_seen:
                other, at = first_seen[question.id]
                raise InputError(
                    f"{file}: row {number}: column 'id': {question.id!r} is already the id of "
                    f"{other}: row {at}; make ids unique"
                )
            first_seen[question.id] = (file, number)
            questions.append(question)
    if not questions:
        raise InputError(f"{what}: {path}: no question in it")
    return questions


def _hops(file: Path, number: int, value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise InputError(
        f"{file}: row {number}: column 'hops' must be a positive integer or absent, got {value!r}"
    )
