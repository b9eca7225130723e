"""Passages → a Lance dataset with its BM25 index, built on Ray.

Ray tasks read the sources (`steper_ray.data.passages`), write them as Lance fragments, and Lance's
distributed inverted-index build indexes them: one index over the titles and one over the texts. What the
index was built with is stored in the dataset itself, so that a query can never run with other settings
than the index.

The corpus has a *version*: a hash of its passages (in any order) and of the index's settings. Chains and
students carry it.
"""

import functools
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.arrow import PASSAGE_SCHEMA
from steper_ray.data.passages import WHAT, Unit, find_passages, plan_units, read_unit
from steper_ray.data.row_counts import RowCounts, SkippedRow, write_row_counts
from steper_ray.data.settings import CorpusConfig
from steper_ray.data.tables import read_rows
from steper_ray.errors import InputError
from steper_ray.files import replace_link
from steper_ray.models.hub import use_hub
from steper_ray.models.settings import HubConfig

if TYPE_CHECKING:
    import pyarrow as pa

    from steper_ray.run.config import RunConfig


SETTINGS_FILE: Final = "steper_corpus.json"
"""Beside the data inside the Lance folder: version, number of passages, search settings."""


INDEX_SETTINGS: Final = ("stem", "remove_stop_words", "title_boost")
"""The settings that decide what a search finds, given the passages."""


ROWS_PER_TABLE: Final = 50_000


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What `steper index` made."""

    folder: Path
    version: str
    passages: int


def build_corpus(config: "RunConfig") -> CorpusInfo:
    """Write and index the corpus of a run; needs a running Ray.

    Raises InputError for a missing file, a bad row, a duplicate id or an empty corpus; the link to the
    finished corpus is made only when everything in it is there. The corpus that was linked to before stays
    until the next one is made: what has it open goes on searching it.
    """
    import lance
    import lance_ray
    import ray

    found = find_passages(config.corpus)
    units = plan_units(found.sources, config.corpus)
    accounts: list[RowCounts] = []
    if not any(True for unit in units for _ in islice(read_unit(unit, config.corpus, accounts), 1)):
        write_row_counts(config.folder.root, WHAT, accounts, found.left_out)
        raise InputError(f"{WHAT}: {config.corpus.passages}: no passage in it")
    target = config.folder.corpus
    for left in target.parent.glob(f"{target.stem}-*.lance"):
        if left.resolve() != target.resolve():  # not finished, or the one before this
            shutil.rmtree(left)
    folder = target.with_name(f"{target.stem}-{uuid.uuid4().hex[:8]}.lance")
    counted = target.with_suffix(".partial.accounts")
    shutil.rmtree(counted, ignore_errors=True)
    counted.mkdir(parents=True)

    rows = ray.data.from_items(
        [{"unit": number} for number in range(len(units))], override_num_blocks=len(units)
    )
    read = functools.partial(
        _read_tables, units=units, config=config.corpus, counted=counted, hub=config.hub
    )
    tables = rows.map_batches(read, batch_size=1, batch_format="pyarrow")
    lance_ray.write_lance(tables, str(folder), schema=PASSAGE_SCHEMA, mode="overwrite")
    dataset = lance.dataset(str(folder))
    ids = dataset.to_table(columns=["id"])["id"]
    if len(ids.unique()) < len(ids):
        shutil.rmtree(folder)
        shutil.rmtree(counted)
        raise _duplicate_error(units, config.corpus)
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), len(dataset.get_fragments())))
    for column in ("title", "text"):
        lance_ray.create_scalar_index(
            str(folder),
            column=column,
            index_type="INVERTED",
            num_workers=workers,
            stem=config.corpus.stem,
            remove_stop_words=config.corpus.remove_stop_words,
            with_position=False,
        )
    version = corpus_version(dataset, config.corpus)
    info = CorpusInfo(target, version, dataset.count_rows())
    settings = {
        "version": version,
        "passages": info.passages,
        **config.corpus.model_dump(exclude={"passages"}),
    }
    write_row_counts(config.folder.root, WHAT, _read_accounts(counted, len(units)), found.left_out)
    shutil.rmtree(counted)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    replace_link(target, folder)
    return info


def corpus_version(dataset: Any, config: CorpusConfig) -> str:
    """Hash of the passages, whatever their order, and of INDEX_SETTINGS; 16 hexadecimal digits.

    How the passages came about (where they lay, how documents were cut) is no part of it.
    """
    total = 0
    for batch in dataset.to_batches(columns=["id", "title", "text"]):
        for row in batch.to_pylist():
            content = json.dumps([row["id"], row["title"], row["text"]]).encode()
            total += int.from_bytes(hashlib.sha256(content).digest()[:16], "big")
    settings = config.model_dump_json(include=set(INDEX_SETTINGS))
    return hashlib.sha256(f"{total % 2**128} {settings}".encode()).hexdigest()[:16]


def _read_tables(
    batch: "pa.Table", units: list[Unit], config: CorpusConfig, counted: Path, hub: HubConfig
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


def _duplicate_error(units: list[Unit], config: CorpusConfig) -> InputError:
    """Where the first duplicate id stands; reads the tables once more, on the error path only."""
    column = config.columns.id
    first_seen: dict[str, str] = {}
    for unit in units:
        for source in unit.sources if unit.kind == "table" else ():
            for number, row in read_rows(source):
                id = str(row.get(column)) if isinstance(row, dict) else None
                if id is None:
                    continue
                where = f"{source}: row {number}"
                if id in first_seen:
                    return InputError(
                        f"{where}: column {column!r}: {id!r} is already the id of {first_seen[id]}; "
                        "make ids unique"
                    )
                first_seen[id] = where
    return InputError(f"{WHAT}: a table has ids that contexts or documents have too; rename them")
