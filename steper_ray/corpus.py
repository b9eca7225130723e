"""Passages → a Lance dataset with its BM25 index, built on Ray.

Each input file is read by a Ray task, written as Lance fragments, and indexed by Lance's distributed
inverted-index build: one index over the titles and one over the texts. What the index was built with
is stored in the dataset itself, so that a query can never run with other settings than the index.

The corpus has a *version*: a hash of its passages (in any order) and its settings. Chains and students
carry it.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import PositiveFloat

from steper_ray.errors import InputError
from steper_ray.rows import input_files, read_rows, text_of
from steper_ray.schema import PASSAGE_SCHEMA, Passage
from steper_ray.section import Section

if TYPE_CHECKING:
    import pyarrow as pa

    from steper_ray.config import RunConfig

SETTINGS_FILE: Final = "steper_corpus.json"
"""Beside the data inside the Lance folder: version, number of passages, search settings."""


class CorpusConfig(Section):
    """The passages and how they are searched."""

    passages: str = ""
    """A .jsonl or .parquet file with columns id, title, text, or a folder of such files."""
    stem: bool = True
    """Reduce words to their stems (English Snowball)."""
    remove_stop_words: bool = True
    """Leave out words like `the` and `of`."""
    title_boost: PositiveFloat = 2.0
    """How much a match in the title counts against one in the text."""


@dataclass(frozen=True, slots=True)
class CorpusInfo:
    """What `steper index` made."""

    folder: Path
    version: str
    passages: int


def read_passages(file: Path) -> Iterator[tuple[int, Passage]]:
    """(row number, passage) for each row of a file; raises InputError at the first bad one."""
    for number, row in read_rows(file):
        yield (
            number,
            Passage(
                id=text_of(file, number, row, "id"),
                title=text_of(file, number, row, "title"),
                text=text_of(file, number, row, "text"),
            ),
        )


def build_corpus(config: "RunConfig") -> CorpusInfo:
    """Write and index the corpus of a run; needs a running Ray.

    Raises InputError for a missing file, a bad row, a duplicate id or an empty corpus; the folder of
    the finished corpus appears only when everything in it is there.
    """
    import lance
    import lance_ray
    import ray

    files = input_files(config.corpus.passages, "corpus.passages")
    if not any(True for file in files for _ in islice(read_passages(file), 1)):
        raise InputError(f"corpus.passages: {config.corpus.passages}: no passage in it")
    target = config.corpus_dir
    partial = target.with_suffix(".partial.lance")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)

    rows = ray.data.from_items(
        [{"file": str(file)} for file in files], override_num_blocks=len(files)
    )
    tables = rows.map_batches(_read_tables, batch_size=1, batch_format="pyarrow")
    lance_ray.write_lance(tables, str(partial), schema=PASSAGE_SCHEMA, mode="overwrite")
    dataset = lance.dataset(str(partial))
    ids = dataset.to_table(columns=["id"])["id"]
    if len(ids.unique()) < len(ids):
        shutil.rmtree(partial)
        raise _duplicate_error(files)
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), len(dataset.get_fragments())))
    for column in ("title", "text"):
        lance_ray.create_scalar_index(
            str(partial),
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
    (partial / SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return info


def corpus_version(dataset: Any, config: CorpusConfig) -> str:
    """Hash of the passages, whatever their order, and of the settings; 16 hexadecimal digits."""
    total = 0
    for batch in dataset.to_batches(columns=["id", "title", "text"]):
        for row in batch.to_pylist():
            content = json.dumps([row["id"], row["title"], row["text"]]).encode()
            total += int.from_bytes(hashlib.sha256(content).digest()[:16], "big")
    settings = config.model_dump_json(exclude={"passages"})
    return hashlib.sha256(f"{total % 2**128} {settings}".encode()).hexdigest()[:16]


def _read_tables(batch: "pa.Table") -> Iterator["pa.Table"]:
    import pyarrow as pa

    for file in batch["file"].to_pylist():
        rows: list[dict[str, str]] = []
        for _, passage in read_passages(Path(file)):
            rows.append({"id": passage.id, "title": passage.title, "text": passage.text})
            if len(rows) == 50_000:
                yield pa.Table.from_pylist(rows, schema=PASSAGE_SCHEMA)
                rows = []
        yield pa.Table.from_pylist(rows, schema=PASSAGE_SCHEMA)


def _duplicate_error(files: list[Path]) -> InputError:
    """Where the first duplicate id stands; reads the files once more, on the error path only."""
    first_seen: dict[str, tuple[Path, int]] = {}
    for file in files:
        for number, passage in read_passages(file):
            if passage.id in first_seen:
                other, at = first_seen[passage.id]
                return InputError(
                    f"{file}: row {number}: column 'id': {passage.id!r} is already the id of "
                    f"{other}: row {at}; make ids unique"
                )
            first_seen[passage.id] = (file, number)
    raise AssertionError("the index saw a duplicate id that the files do not have")
