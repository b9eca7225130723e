"""Passages of a corpus: from tables, from the contexts inside question files, from documents.

| source | its passages | their ids |
|---|---|---|
| a table (JSON Lines, JSON, CSV, Parquet, Hub dataset) | its rows | its column of ids |
| a table without ids | its rows, each once | hash of title and text |
| HotpotQA, 2WikiMultihopQA, MuSiQue … | every context of every row, each once | hash of title and text |
| text, Markdown, HTML | cut by sentences (`steper_ray.data.documents`) | the file's name and such a hash |

A corpus of contexts is what IRCoT (Trivedi et al. 2023) made for 2WikiMultihopQA and MuSiQue. The contexts
of questions that cannot be used, such as unanswerable ones, are passages like others.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from steper_ray.data.addresses import (
    DATA_SUFFIXES,
    DOCUMENT_SUFFIXES,
    Source,
    SourceListing,
    find_sources,
)
from steper_ray.data.formats import Format
from steper_ray.data.published import format_of
from steper_ray.data.row_counts import RowCounts, parse_rows
from steper_ray.data.settings import CorpusConfig
from steper_ray.errors import InputError
from steper_ray.schema import Passage

SETTING: Final = "corpus.passages"


DOCUMENTS_PER_UNIT: Final = 200


Kind = Literal["table", "hashed", "documents"]
"""Of sources: tables that give ids, rows whose passages have hashes for ids, documents."""


@dataclass(frozen=True, slots=True)
class ReadUnit:
    """Sources that one task reads."""

    kind: Kind
    sources: tuple[Source, ...]


def find_passages(config: CorpusConfig) -> SourceListing:
    """The sources of the corpus. Raises InputError for none, and for two documents of one name."""
    listing = find_sources(config.passages, SETTING, (*DATA_SUFFIXES, *DOCUMENT_SUFFIXES))
    names: dict[str, Source] = {}
    for source in filter(lambda source: source.is_document, listing.sources):
        other = names.setdefault(source.name, source)
        if other is not source:
            raise InputError(
                f"{SETTING}: {other} and {source}: two documents called {source.name}, which their "
                "passages' ids begin with; name the folder that has both, or rename one"
            )
    return listing


def plan_units(sources: Sequence[Source], config: CorpusConfig) -> list[ReadUnit]:
    """Units of reading: each table; all sources of hashed passages together, since those are made unique
    within a unit (38 MB of JSON a second, measured on one core); documents by the hundred."""
    kinds: dict[Kind, list[Source]] = {"table": [], "hashed": [], "documents": []}
    for source in sources:
        kinds[_kind(source, config)].append(source)
    documents = kinds["documents"]
    return [
        *(ReadUnit("table", (source,)) for source in kinds["table"]),
        *([ReadUnit("hashed", tuple(kinds["hashed"]))] if kinds["hashed"] else []),
        *(
            ReadUnit("documents", tuple(documents[at : at + DOCUMENTS_PER_UNIT]))
            for at in range(0, len(documents), DOCUMENTS_PER_UNIT)
        ),
    ]


def read_unit(unit: ReadUnit, config: CorpusConfig, accounts: list[RowCounts]) -> Iterator[Passage]:
    """The passages of a unit; accounts: each file's, or kind of document's, is added at the end.

    Raises InputError with file, row and column for the first row that is broken.
    """
    by_name: dict[tuple[str, str], RowCounts] = {}
    seen: set[str] = set()
    for source in unit.sources:
        if unit.kind == "documents":
            account = RowCounts(source.found_by, f"documents ({source.suffix})")
            account = by_name.setdefault((account.source, account.format), account)
            passages = _read_document(source, config, account)
        else:
            format = _format(source, config)
            account = RowCounts(str(source), format.name)
            by_name[account.source, account.format] = account
            passages = _read_rows(source, format, config, account)
        for passage in passages:
            if unit.kind == "hashed":
                if passage.id in seen:
                    account.note("passages met before")
                    continue
                seen.add(passage.id)
            if unit.kind != "table":
                account.note("passages")
            yield passage
    accounts += by_name.values()


def _read_rows(
    source: Source, format: Format, config: CorpusConfig, account: RowCounts
) -> Iterator[Passage]:
    assert format.passages is not None
    rows = parse_rows(source, format.columns, format.passages, account, config.bad_rows, "corpus")
    for _, _, passages in rows:
        account.used += 1
        for passage in passages:
            if passage.text:
                yield passage
            else:
                account.note("passages without text, left out")


def _read_document(source: Source, config: CorpusConfig, account: RowCounts) -> Iterator[Passage]:
    from steper_ray.data.documents import document_passages

    account.read += 1
    try:
        passages = document_passages(source, config.passage_size, config.passage_overlap)
    except InputError as error:
        account.refuse(source, 1, error, None, config.bad_rows, "corpus")
        return
    if passages:
        account.used += 1
    else:
        account.skip(source, 1, "no_text", None)
    yield from passages


def _kind(source: Source, config: CorpusConfig) -> Kind:
    if source.is_document:
        return "documents"
    format = _format(source, config)
    gives_ids = format.question is None and format.id_column is not None
    return "table" if gives_ids else "hashed"


def _format(source: Source, config: CorpusConfig) -> Format:
    """The format of a source; raises InputError for one without passages."""
    format = format_of(source, config.columns)
    if format is None or format.passages is None:
        raise InputError(
            f"{SETTING}: {source}: other names of answers, and no passages; take it out of the folder"
        )
    return format
