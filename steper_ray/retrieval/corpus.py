"""Passages → an indexed Lance dataset, built on Ray.

Ray tasks read the sources (`steper_ray.data.passages`) and write them as Lance fragments; the retriever's
module then adds its index. The settings of the index are stored with the dataset
(`steper_ray.retrieval.corpus_record`).

The corpus has a *version*: a hash of its passages (in any order) and of the index's settings. Chains and
students carry it.
"""

import functools
import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.arrow import PASSAGE_SCHEMA
from steper_ray.data.passages import SETTING, ReadUnit, find_passages, plan_units, read_unit
from steper_ray.data.published import format_of
from steper_ray.data.row_counts import RowCounts, SkippedRow, write_row_counts
from steper_ray.data.settings import CorpusConfig
from steper_ray.data.tables import read_rows
from steper_ray.data.values import value_at
from steper_ray.errors import InputError
from steper_ray.models.hub import use_hub
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.retrieval import RETRIEVERS
from steper_ray.retrieval.corpus_record import CorpusRecord, version_of, write_corpus_record
from steper_ray.retrieval.protocol import IndexReport
from steper_ray.retrieval.settings import NoRetrievalConfig
from steper_ray.run.lock import locked
from steper_ray.run.versions import place_version, remove_old_versions, version_folder

if TYPE_CHECKING:
    import pyarrow as pa


ROWS_PER_TABLE: Final = 50_000


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What `steper index` made."""

    folder: Path
    version: str
    passages: int
    remarks: tuple[str, ...] = ()
    """Lines about how it is searched."""


def build_corpus(
    settings: CorpusConfig, *, out: Path, inputs: Path, hub: HubConfig = DEFAULTS
) -> CorpusInfo:
    """Write and index a corpus; needs a running Ray.

    out:    a link to the finished corpus, which is made only when the corpus is complete. The corpus that
            it linked to before stays until the next one is made, and as long as it is in use.
    inputs: folder of the row accounting
    Raises InputError for a missing file, a bad row, a duplicate id or an empty corpus, and if another
    command is indexing to `out`.
    """
    with locked(out):
        remove_old_versions(out)  # unfinished ones too
        folder = version_folder(out, secrets.token_hex(4))
        retriever = settings.retriever
        if isinstance(retriever, NoRetrievalConfig) and not settings.passages:
            folder.mkdir(parents=True)
            content = passages = 0
            indexed = IndexReport(retriever)
        else:
            _write_passages(settings, folder, out.with_suffix(".partial.accounts"), inputs, hub)
            content, passages = _hash_and_count(folder)
            indexed = RETRIEVERS[retriever.type].index(folder, retriever)
        version = version_of(content, indexed.settings)
        write_corpus_record(folder, CorpusRecord(version, passages, indexed.settings.model_dump()))
        place_version(out, folder)
    return CorpusInfo(out, version, passages, indexed.remarks)


def _write_passages(
    settings: CorpusConfig, folder: Path, counted: Path, inputs: Path, hub: HubConfig
) -> None:
    """Read the sources on Ray and write them as Lance fragments, with their row accounting.

    counted: a folder for the accounts of the Ray tasks; removed at the end
    """
    import lance
    import lance_ray
    import ray

    sources = find_passages(settings)
    units = plan_units(sources.sources, settings)
    accounts: list[RowCounts] = []
    if not any(True for unit in units for _ in islice(read_unit(unit, settings, accounts), 1)):
        write_row_counts(inputs, SETTING, accounts, sources.skipped_files)
        raise InputError(
            f"{SETTING}: {settings.passages}: no passage in it; give a table with a column text, "
            "and best with id and title, or documents with text"
        )
    shutil.rmtree(counted, ignore_errors=True)
    counted.mkdir(parents=True)
    rows = ray.data.from_items(
        [{"unit": number} for number in range(len(units))], override_num_blocks=len(units)
    )
    read = functools.partial(_read_tables, units=units, config=settings, counted=counted, hub=hub)
    tables = rows.map_batches(read, batch_size=1, batch_format="pyarrow")
    lance_ray.write_lance(tables, str(folder), schema=PASSAGE_SCHEMA, mode="overwrite")
    ids = lance.dataset(str(folder)).to_table(columns=["id"])["id"]
    if len(ids.unique()) < len(ids):
        shutil.rmtree(folder)
        shutil.rmtree(counted)
        raise _duplicate_error(units, settings)
    write_row_counts(inputs, SETTING, _read_accounts(counted, len(units)), sources.skipped_files)
    shutil.rmtree(counted)


def _hash_and_count(folder: Path) -> tuple[int, int]:
    """Sum of the hashes of all passages, whatever their order, and how many there are.

    How the passages came about (where they lay, how documents were cut) is no part of it.
    """
    import lance

    total = count = 0
    for batch in lance.dataset(str(folder)).to_batches(columns=["id", "title", "text"]):
        for row in batch.to_pylist():
            content = json.dumps([row["id"], row["title"], row["text"]]).encode()
            total += int.from_bytes(hashlib.sha256(content).digest()[:16], "big")
            count += 1
    return total % 2**128, count


def _read_tables(
    batch: "pa.Table", units: list[ReadUnit], config: CorpusConfig, counted: Path, hub: HubConfig
) -> Iterator["pa.Table"]:
    """The passages of a batch of units, and their accounts as files, which a repeated task overwrites."""
    import pyarrow as pa

    use_hub(hub)
    for number in batch["unit"].to_pylist():
        accounts: list[RowCounts] = []
        passages = read_unit(units[number], config, accounts)
        while rows := [asdict(passage) for passage in islice(passages, ROWS_PER_TABLE)]:
            yield pa.Table.from_pylist(rows, schema=PASSAGE_SCHEMA)
        yield PASSAGE_SCHEMA.empty_table()
        (counted / f"{number}.json").write_text(json.dumps([asdict(a) for a in accounts]))


def _read_accounts(counted: Path, units: int) -> list[RowCounts]:
    """The accounts of all units, those of one name joined (documents of one folder and kind)."""
    joined: dict[tuple[str, str], RowCounts] = {}
    for number in range(units):
        for values in json.loads((counted / f"{number}.json").read_text()):
            key = values["source"], values["format"]
            account = joined.setdefault(key, RowCounts(*key))
            account.read += values["read"]
            account.used += values["used"]
            for what, count in values["notes"].items():
                account.note(what, count)
            account.skipped += [SkippedRow(**row) for row in values["skipped"]]
    return list(joined.values())


def _duplicate_error(units: list[ReadUnit], config: CorpusConfig) -> InputError:
    """Where the first duplicate id stands; reads the tables once more, on the error path only."""
    first_seen: dict[str, str] = {}
    for unit in units:
        for source in unit.sources if unit.kind == "table" else ():
            format = format_of(source, config.columns)
            column = format.id_column if format else None
            assert column is not None
            for number, row in read_rows(source, [column]):
                if isinstance(row, InputError):
                    continue
                id = str(value_at(row, column))
                where = f"{source}: row {number}"
                if id in first_seen:
                    return InputError(
                        f"{where}: column {column!r}: {id!r} is already the id of {first_seen[id]}; "
                        "make ids unique"
                    )
                first_seen[id] = where
    return InputError(
        f"{SETTING}: a table has ids that contexts or documents have too; rename them"
    )
