"""Row accounting per input file: rows read, used and skipped, and why each was skipped.

Invariant: read = used + skipped.

Two kinds of row are not used. One that says itself that it is no question to learn from (an unanswerable
one of MuSiQue, a test question without an answer) is skipped, always. One that is broken (a missing
column, a wrong type) is an error that names file, row and column, unless `bad_rows: skip` is set: a wrong
column mapping breaks every row, and finding that out after the teacher has worked is too late.

`<run.dir>/inputs/<setting>.json` has the counts of each file, `<setting>.skipped.jsonl` the skipped rows.
"""

import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from steper_ray.data.addresses import Source
from steper_ray.data.json_rows import Row
from steper_ray.data.settings import BadRows
from steper_ray.data.tables import read_rows
from steper_ray.data.values import brief
from steper_ray.errors import InputError
from steper_ray.files import write_whole

Parsed = TypeVar("Parsed")


BAD_ROW: Final = "bad_row"


MAX_SHOWN: Final = 2000
"""Characters of the id and the question of a skipped row that are written down."""


MAX_LISTED_FILES: Final = 20
"""Names of skipped files that are written down."""


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that was read and not used."""

    file: str
    row: int
    reason: str
    """A code: `unanswerable`, `no_answer`, `duplicate`, `no_text`, `bad_row`."""
    error: str = ""
    """The fault of a `bad_row`."""
    id: str = ""
    question: str = ""


@dataclass(slots=True)
class RowCounts:
    """The rows of one file (of documents: of one folder and kind, a row being a document)."""

    source: str
    format: str
    """Name of the format that the file was recognised as."""
    read: int = 0
    used: int = 0
    skipped: list[SkippedRow] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    """Other counts, by name."""

    def note(self, name: str, count: int = 1) -> None:
        """Add to a count of something other than rows."""
        self.notes[name] = self.notes.get(name, 0) + count

    def skip(self, file: object, row: int, reason: str, content: object, error: str = "") -> None:
        """Record a row that is not used; content: the row, where it could be read."""
        fields = content if isinstance(content, Mapping) else {}
        id, question = fields.get("_id", fields.get("id", "")), fields.get("question", "")
        shown = brief(str(id), MAX_SHOWN), brief(str(question), MAX_SHOWN)
        self.skipped.append(SkippedRow(str(file), row, reason, error, *shown))

    def refuse(
        self,
        file: object,
        row: int,
        error: InputError,
        content: object,
        bad_rows: BadRows,
        section: str,
    ) -> None:
        """Record a broken row, or raise its error, as `<section>.bad_rows` says."""
        if bad_rows == "error":
            raise InputError(f"{error}; or set {section}.bad_rows: skip") from None
        self.skip(file, row, BAD_ROW, content, str(error))

    def check(self) -> None:
        """Assert that every row read is used or skipped."""
        assert self.read == self.used + len(self.skipped), self


def parse_rows(
    source: Source,
    columns: Collection[str],
    parse: Callable[[str, Row], Parsed],
    account: RowCounts,
    bad_rows: BadRows,
    section: str,
) -> Iterator[tuple[int, Row, Parsed]]:
    """(row number, row, parsed row) for each row of a source; broken rows go into the account.

    columns: the columns to read
    parse:   called with file and row, as in `train.jsonl: row 7`, and the row; raises InputError for a
             broken one
    section: name of the section that `bad_rows` is set in
    """
    for number, row in read_rows(source, columns):
        account.read += 1
        try:
            if isinstance(row, InputError):
                raise row
            parsed = parse(f"{source}: row {number}", row)
        except InputError as error:
            account.refuse(source, number, error, row, bad_rows, section)
            continue
        yield number, row, parsed


def write_row_counts(
    inputs: Path, setting: str, accounts: Sequence[RowCounts], skipped_files: Sequence[str] = ()
) -> None:
    """Write the counts and the skipped rows of one setting, as `questions.train`.

    inputs:        folder of the row accounting
    skipped_files: files behind the setting that hold no rows
    """
    inputs.mkdir(parents=True, exist_ok=True)
    skipped = [row for account in accounts for row in account.skipped]
    file = skipped_file(inputs, setting)
    if skipped:
        lines = (json.dumps(_row(row), ensure_ascii=False) + "\n" for row in skipped)
        write_whole(file, "".join(lines), errors="backslashreplace")
    else:
        file.unlink(missing_ok=True)
    counts = {
        "setting": setting,
        **_counts(accounts),
        "files": [{"source": a.source, "format": a.format, **_counts([a])} for a in accounts],
        "files_left_out": {
            "count": len(skipped_files),
            "first": list(skipped_files[:MAX_LISTED_FILES]),
        },
    }
    counted = json.dumps(counts, indent=2, ensure_ascii=False) + "\n"
    write_whole(inputs / f"{setting}.json", counted, errors="backslashreplace")


def note_missing_gold(
    inputs: Path, setting: str, named: int, missing: int, shown: Sequence[str]
) -> None:
    """Add to the written counts of a setting its gold passages, and those that the corpus lacks.

    shown: some of the missing ones, for people
    """
    file = inputs / f"{setting}.json"
    counts = json.loads(file.read_text(encoding="utf-8"))
    counts["gold_passages"] = {"named": named, "not_in_corpus": missing, "first": list(shown)}
    written = json.dumps(counts, indent=2, ensure_ascii=False) + "\n"
    write_whole(file, written, errors="backslashreplace")


def skipped_file(inputs: Path, setting: str) -> Path:
    """The file of a setting's skipped rows; missing when none was skipped."""
    return inputs / f"{setting}.skipped.jsonl"


def row_count_lines(inputs: Path, *settings: str) -> list[str]:
    """The row accounting of each setting as lines to print, one a format; none for a setting not read."""
    lines = []
    for setting in settings:
        file = inputs / f"{setting}.json"
        if not file.exists():
            continue
        written = json.loads(file.read_text(encoding="utf-8"))
        lines += [
            f"{setting}: {_described(name, [f for f in written['files'] if f['format'] == name])}"
            for name in dict.fromkeys(file["format"] for file in written["files"])
        ]
        if written["skipped"]:
            lines.append(f"{setting}: skipped rows → {skipped_file(inputs, setting)}")
        gold = written.get("gold_passages", {})
        if missing := gold.get("not_in_corpus"):
            lines.append(
                f"{setting}: {missing:,} of {gold['named']:,} gold passages are not in the corpus, as "
                f"{', '.join(gold['first'])}; they count as not found"
            )
        if count := written["files_left_out"]["count"]:
            lines.append(f"{setting}: {count:,} files of other kinds left out")
    return lines


def _described(format: str, files: Sequence[Mapping[str, Any]]) -> str:
    read, used = (sum(file[name] for file in files) for name in ("read", "used"))
    reasons = _sum(file["reasons"] for file in files)
    notes = _sum(file["notes"] for file in files)
    why = f" ({_counted(reasons)})" if reasons else ""
    also = f"; {_counted(notes)}" if notes else ""
    return f"{format}, {read:,} read = {used:,} used + {read - used:,} skipped{why}{also}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))


def _counts(accounts: Iterable[RowCounts]) -> dict[str, Any]:
    accounts = list(accounts)
    for account in accounts:
        account.check()
    reasons = Counter(row.reason for account in accounts for row in account.skipped)
    return {
        "read": sum(account.read for account in accounts),
        "used": sum(account.used for account in accounts),
        "skipped": reasons.total(),
        "reasons": dict(sorted(reasons.items())),
        "notes": dict(sorted(_sum(account.notes for account in accounts).items())),
    }


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _row(row: SkippedRow) -> dict[str, Any]:
    """A skipped row as JSON, without its empty fields."""
    values = {name: getattr(row, name) for name in row.__slots__}
    return {name: value for name, value in values.items() if value != ""}
