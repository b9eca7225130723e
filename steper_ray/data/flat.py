"""Tables of one question or one passage a row: which of their columns are which.

Without names in the run file, the first layout below whose columns one of the first rows has is taken:
our own, else that of a published corpus. The data are in QUESTION_LAYOUTS and PASSAGE_LAYOUTS.
"""

from collections.abc import Collection, Sequence
from typing import Final

from steper_ray.data.formats import (
    Format,
    Row,
    UnusableRow,
    answers_of,
    hashed_passage,
    join_sentences,
    question_id,
)
from steper_ray.data.settings import PassageColumns, QuestionColumns
from steper_ray.data.values import (
    has_column,
    is_blank,
    is_missing,
    label_of,
    listed,
    text_of,
    texts_of,
    truth_of,
    value_at,
    whole_number_of,
)
from steper_ray.errors import InputError
from steper_ray.schema import Passage, Question
from steper_ray.sentences import end_sign

OWN_QUESTIONS: Final = "table of questions"


OWN_PASSAGES: Final = "table of passages"


OWN_QUESTION_COLUMNS: Final = QuestionColumns()


OWN_PASSAGE_COLUMNS: Final = PassageColumns()


QUESTION_LAYOUTS: Final = (
    (OWN_QUESTIONS, OWN_QUESTION_COLUMNS),
    ("FlashRAG", QuestionColumns(answer="golden_answers")),  # and Search-R1
    ("BEIR", QuestionColumns(id="_id", question="text", answer="metadata.answer")),
    ("DPR", QuestionColumns(answer="answers")),
    ("MS MARCO", QuestionColumns(id="query_id", question="query", answer="answers")),
)


PASSAGE_LAYOUTS: Final = (
    (OWN_PASSAGES, OWN_PASSAGE_COLUMNS),  # and DPR's psgs, HippoRAG's corpora
    ("BEIR", PassageColumns(id="_id")),
    ("FlashRAG", PassageColumns(title=None, text="contents")),  # and Search-R1, Pyserini
    ("MS MARCO", PassageColumns(id="pid", title=None, text="passage")),
)


CONTENTS: Final = "contents"
"""The column of FlashRAG, Search-R1 and Pyserini: the title, as a line of its own, and the text."""


LONGEST_TITLE_LINE: Final = 150
"""Characters of a first line without quotes that is taken for a title."""


def question_table(columns: QuestionColumns, rows: Sequence[Row]) -> Format:
    """The format of a table of questions.

    columns: the names in the run file
    rows:    the table's first rows; none where it has none
    """
    name, is_named = OWN_QUESTIONS, columns.id != OWN_QUESTION_COLUMNS.id
    if columns == OWN_QUESTION_COLUMNS:
        name, columns = next(
            (
                (name, layout)
                for name, layout in QUESTION_LAYOUTS
                if any(
                    has_column(row, layout.question) and has_column(row, layout.answer)
                    for row in rows
                )
            ),
            (name, columns),
        )
    id = columns.id if is_named or _has(rows, columns.id) else None
    late = {columns.id} if id is None and not is_named else set()

    def question(where: str, row: Row) -> Question | UnusableRow:
        _refuse_late_id(where, row, late, "questions.columns.id")
        text = text_of(where, row, columns.question, setting="questions.columns.question")
        if not has_column(row, columns.answer):
            text_of(where, row, columns.answer, setting="questions.columns.answer")
        if not truth_of(f"{where}: column 'answerable'", row.get("answerable"), if_missing=True):
            return "unanswerable"
        answers = answers_of(where, row, columns.answer)
        if not answers:
            return "no_answer"
        return Question(
            id=question_id(text, answers[0])
            if id is None
            else text_of(where, row, id, integers=True, setting="questions.columns.id"),
            question=text,
            answer=answers[0],
            answer_aliases=(*answers[1:], *texts_of(where, row, columns.answer_aliases)),
            supporting_ids=texts_of(where, row, columns.supporting_ids),
            hops=whole_number_of(where, row, columns.hops),
            type=label_of(row, columns.type),
        )

    asked = asked_columns(columns) | {"answerable", "answer_id"}
    return Format(name, asked, lambda _: True, question=question, id_column=id)


def passage_table(columns: PassageColumns, rows: Sequence[Row]) -> Format:
    """The format of a table of passages; see `question_table`."""
    name, is_named = OWN_PASSAGES, columns.id != OWN_PASSAGE_COLUMNS.id
    ids = {columns.id}
    if columns == OWN_PASSAGE_COLUMNS:
        fitting = [each for each in PASSAGE_LAYOUTS if _has(rows, each[1].text)]
        with_ids = [each for each in fitting if _has(rows, each[1].id)]
        name, columns = next(iter([*with_ids, *fitting]), (name, columns))
        ids = {layout.id for _, layout in fitting}
    id = columns.id if is_named or _has(rows, columns.id) else None
    late = ids if id is None and not is_named else set()

    def passages(where: str, row: Row) -> list[Passage]:
        _refuse_late_id(where, row, late, "corpus.columns.id")
        title, text = _title_and_text(where, row, columns)
        if id is None:
            return [hashed_passage(title, text)]
        given = text_of(where, row, id, integers=True, setting="corpus.columns.id")
        return [Passage(given, title, text)]

    return Format(name, asked_columns(columns), lambda _: True, passages, id_column=id)


def asked_columns(columns: QuestionColumns | PassageColumns) -> frozenset[str]:
    """The names that are given."""
    return frozenset(name for name in columns.model_dump().values() if name is not None)


def _has(rows: Sequence[Row], column: str | None) -> bool:
    """Whether a table has a column, by its first rows; a table without rows may have any."""
    return column is not None and (not rows or any(has_column(row, column) for row in rows))


def _refuse_late_id(where: str, row: Row, columns: Collection[str | None], setting: str) -> None:
    """Raises InputError for a row that has an id where the first rows had none: it would be lost."""
    for column in columns:
        if column is not None and not is_missing(value_at(row, column)):
            raise InputError(
                f"{where}: column {column!r} has a value here and is missing in the first rows; give "
                f"every row one, or set {setting}: null to make ids from the content"
            )


def _title_and_text(where: str, row: Row, columns: PassageColumns) -> tuple[str, str]:
    """Title and text of a passage; the text may be empty where it is a list of no sentences."""
    value = value_at(row, columns.text)
    if isinstance(value, str):
        spelled = listed(value)  # where it is a list of texts, the row was one in Parquet
        is_list = isinstance(spelled, list) and all(isinstance(text, str) for text in spelled)
        value = spelled if is_list else value
    if isinstance(value, list):  # of sentences, as in HotpotQA's Wikipedia
        text = join_sentences(texts_of(where, {columns.text: value}, columns.text))
    else:
        text = text_of(where, row, columns.text, setting="corpus.columns.text")
    if columns.title is None:
        return split_contents(text) if columns.text == CONTENTS else ("", text)
    if columns.title == OWN_PASSAGE_COLUMNS.title and not has_column(row, columns.title):
        return "", text
    setting = "corpus.columns.title"
    return text_of(where, row, columns.title, may_be_empty=True, setting=setting), text


def split_contents(contents: str) -> tuple[str, str]:
    """Title and text of `contents`: the first line, in quotes or like a title, and the lines below it."""
    line, _, text = contents.strip().partition("\n")
    line = line.strip()
    if is_blank(text):
        return "", contents
    if len(line) > 2 and line.startswith('"') and line.endswith('"'):
        return line[1:-1], text.strip()
    if len(line) <= LONGEST_TITLE_LINE and not end_sign(line):
        return line, text.strip()
    return "", contents
