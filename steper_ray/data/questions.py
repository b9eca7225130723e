"""Questions with their gold answers, from the files people have, in one schema.

Published data sets are recognised by their columns (`steper_ray.data.published`). Any other table (JSON
Lines, JSON, CSV, Parquet, a Hub dataset) has the columns `question` and `answer`, and optionally `id`,
`answer_aliases` (list of text), `supporting_ids` (list of passage ids in chain order) and `hops` (integer),
under these names or those that `questions.columns` gives.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from steper_ray.data.addresses import Source, find_sources
from steper_ray.data.formats import Format, Row, UnusableRow
from steper_ray.data.overlap import SPLITS, write_asked
from steper_ray.data.published import format_of
from steper_ray.data.row_counts import RowCounts, parse_rows, write_row_counts
from steper_ray.data.settings import QuestionsConfig, Split
from steper_ray.data.tables import read_rows
from steper_ray.data.values import text_of, texts_of
from steper_ray.errors import InputError
from steper_ray.schema import Question
from steper_ray.tasks.qa import normalize

UNSUPPORTED: Final = "with supporting passages that are not among their own"


DEFAULTS: Final = QuestionsConfig()


@dataclass(frozen=True, slots=True)
class QuestionSet:
    """Questions of one setting, with their row accounting."""

    questions: list[Question]
    accounts: list[RowCounts]
    """One for each file."""
    skipped_files: list[str]
    """Files that hold no questions."""


def load_questions(settings: QuestionsConfig, split: Split, inputs: Path) -> list[Question]:
    """The questions of a split, in file order, with their row accounting written into `inputs`.

    Raises InputError as `gather_questions` does.
    """
    setting, address = f"questions.{split}", getattr(settings, split)
    gathered = gather_questions(address, setting, settings)
    write_row_counts(inputs, setting, gathered.accounts, gathered.skipped_files)
    write_asked(inputs, split, gathered.questions)
    return _required(gathered, address, setting)


def load_other_splits(settings: QuestionsConfig, split: Split, inputs: Path) -> None:
    """Read the splits beside `split`, to be compared with it; bad ones are not compared."""
    for other in SPLITS:
        address = getattr(settings, other)
        if other == split or not address:
            continue
        with suppress(InputError):  # the stage that uses it says what is wrong
            write_asked(
                inputs, other, gather_questions(address, f"questions.{other}", settings).questions
            )


def read_questions(
    address: str, setting: str, settings: QuestionsConfig = DEFAULTS
) -> list[Question]:
    """All questions behind an address, without their row accounting."""
    return _required(gather_questions(address, setting, settings), address, setting)


def gather_questions(
    address: str, setting: str, settings: QuestionsConfig = DEFAULTS
) -> QuestionSet:
    """All questions behind an address, in file order, with their row accounting.

    setting: its name for errors, as `questions.train`
    Raises InputError with file, row and column for the first row that is broken (see
    `steper_ray.data.row_counts`) and for two questions of one id.
    """
    listing = find_sources(address, setting)
    aliases = _read_aliases(settings.aliases) if settings.aliases else {}
    result = QuestionSet([], [], listing.skipped_files)
    first_seen: dict[str, str] = {}
    for source in listing.sources:
        format = format_of(source, settings.columns)
        if format is None:
            result.skipped_files.append(f"{source.name} (see questions.aliases)")
            continue
        account = RowCounts(str(source), format.name)
        for question in _usable(source, format, settings, aliases, first_seen, account):
            result.questions.append(question)
        result.accounts.append(account)
    return result


def _usable(
    source: Source,
    format: Format,
    settings: QuestionsConfig,
    aliases: Mapping[str, tuple[str, ...]],
    first_seen: dict[str, str],
    account: RowCounts,
) -> Iterator[Question]:
    """The usable questions of a source; all other rows go into the account.

    first_seen: id → file and row of every question so far
    """
    read_question = format.question
    assert read_question is not None

    def parse(where: str, row: Row) -> Question | UnusableRow:
        question = read_question(where, row)
        if not isinstance(question, str):
            if question.id in first_seen:
                if format.id_column is None:
                    return "duplicate"
                raise InputError(
                    f"{where}: column {format.id_column!r}: {question.id!r} is already the id of "
                    f"{first_seen[question.id]}; make ids unique"
                )
            first_seen[question.id] = where
        return question

    rows = parse_rows(source, format.columns, parse, account, settings.bad_rows, "questions")
    for number, row, question in rows:
        if isinstance(question, str):
            account.skip(source, number, question, row)
            continue
        if format.passages and question.hops and not question.supporting_ids:
            account.note(UNSUPPORTED)
        account.used += 1
        if not settings.gold_passages:
            question = replace(question, supporting_ids=())
        yield _with_aliases(question, aliases.get(str(row.get("answer_id")), ()))


def _with_aliases(question: Question, names: tuple[str, ...]) -> Question:
    """The question with further names of its answer, each once and none of them blank.

    A name that scoring normalizes to nothing ("", "the", "...") would make an empty answer right.
    """
    known = dict.fromkeys(filter(normalize, [*question.answer_aliases, *names]))
    known.pop(question.answer, None)
    return replace(question, answer_aliases=tuple(known))


def _read_aliases(address: str) -> dict[str, tuple[str, ...]]:
    """Wikidata id → other names: `aliases` and `demonyms`, as the official evaluation takes them."""
    names: dict[str, tuple[str, ...]] = {}
    for source in find_sources(address, "questions.aliases").sources:
        for number, row in read_rows(source):
            if isinstance(row, InputError):
                raise row
            where = f"{source}: row {number}"
            names[text_of(where, row, "Q_id")] = (
                *texts_of(where, row, "aliases"),
                *texts_of(where, row, "demonyms"),
            )
    return names


def _required(gathered: QuestionSet, address: str, setting: str) -> list[Question]:
    """The questions of a set; raises InputError if there are none."""
    if not gathered.questions:
        skipped = Counter(row.reason for account in gathered.accounts for row in account.skipped)
        why = ", ".join(f"{count:,} {reason}" for reason, count in sorted(skipped.items()))
        raise InputError(
            f"{setting}: {address}: no question in it{f' to use ({why})' if why else ''}"
        )
    return gathered.questions
