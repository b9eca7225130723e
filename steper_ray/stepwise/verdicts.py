"""Verdicts on the chains' files: each file judged alone, the kept shared out, each file written with them.

Only a batch of a file is unpacked at a time; of all chains no more is held than `Judged`.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.errors import InputError
from steper_ray.reasoning.framework import Framework
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.identity import read_record
from steper_ray.schema import CHAIN_SCHEMA, Chain
from steper_ray.stepwise.asking import score_again
from steper_ray.stepwise.chains import chain_from_row
from steper_ray.stepwise.choose import Judged, choose, judge
from steper_ray.stepwise.select import SelectConfig
from steper_ray.stepwise.statistics import Counts
from steper_ray.stepwise.store import record_file

if TYPE_CHECKING:
    import pyarrow as pa

CHAINS_AT_ONCE: Final = 64
"""Chains that are unpacked at a time."""
NEEDED: Final = tuple(field.name for field in fields(Chain) if field.default is MISSING)
"""Columns that a file of chains must have; the others were added later."""


def chain_files(chains_dir: Path) -> list[Path]:
    """The Parquet files of a folder of chains, sorted, each with the columns that chains need.

    Raises InputError naming the folder, or the file and the column, and for chains that a newer version
    has written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_record(record_file(chains_dir))
    files = sorted(chains_dir.glob("*.parquet"))
    if not files:
        raise InputError(f"{chains_dir}: no chains; run `steper build` first")
    for file in files:
        try:
            present = set(pq.read_schema(file).names)
        except pa.ArrowInvalid as error:
            line = " ".join(str(error).split())
            raise InputError(
                f"{file}: not a Parquet file ({line}); take it away and run `steper build`"
            ) from None
        for column in NEEDED:
            if column not in present:
                raise InputError(f"{file}: no column {column!r}; these are not a teacher's chains")
    return files


def read_file(file: Path) -> Iterator[Chain]:
    """The chains of a file, in its order."""
    for batch in _batches(file):
        yield from map(chain_from_row, batch.to_pylist())


def judge_file(
    file: Path, *, select: SelectConfig, reasoning: ReasoningConfig, teachers: Sequence[str]
) -> list[Judged]:
    """The verdict on each chain of a file, looked at alone; see `judge`."""
    framework = framework_named(reasoning.framework)
    return [judge(chain, select, framework, teachers) for chain in read_file(file)]


def rewrite_file(job: tuple[Path, Path, Mapping[str, str | None]]) -> Counts:
    """Write a file of chains with new verdicts to a folder, and count its chains by them.

    job: file, folder, chain id → verdict
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, folder, verdicts = job
    counts = Counts()
    place = CHAIN_SCHEMA.get_field_index("rejected")
    with pq.ParquetWriter(folder / file.name, CHAIN_SCHEMA) as writer:
        for batch in _batches(file):
            for row in batch.to_pylist():
                counts.add(chain_from_row(row), verdicts[row["id"]])
            now = pa.array([verdicts[i] for i in batch["id"].to_pylist()], pa.string())
            writer.write_batch(batch.set_column(place, CHAIN_SCHEMA.field(place), now))
    return counts


def score_file(job: tuple[Path, Path, Framework]) -> None:
    """Write a file of chains to a folder, with answers and scores by the rules of today.

    job: file, folder, framework by which the chains were written
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, folder, framework = job
    with pq.ParquetWriter(folder / file.name, CHAIN_SCHEMA) as writer:
        for batch in _batches(file):
            chains = [score_again(chain_from_row(row), framework) for row in batch.to_pylist()]
            for name in ("answer", "em", "f1", "acc"):
                place = CHAIN_SCHEMA.get_field_index(name)
                field = CHAIN_SCHEMA.field(place)
                now = pa.array([getattr(chain, name) for chain in chains], field.type)
                batch = batch.set_column(place, field, now)
            writer.write_batch(batch)


def share_out(
    judged: Mapping[Path, Sequence[Judged]], select: SelectConfig
) -> dict[str, str | None]:
    """Chain id → verdict, of all chains together; raises InputError for an id that two chains have."""
    first: dict[str, Path] = {}
    for file, rows in judged.items():
        for row in rows:
            if row.id in first:
                raise InputError(
                    f"{file}: a chain has the id {row.id!r}, as one in {first[row.id]}; take one away"
                )
            first[row.id] = file
    return choose([row for rows in judged.values() for row in rows], select)


def _batches(file: Path) -> "Iterator[pa.RecordBatch]":
    """The rows of a file of chains, in its order, with every column of today's schema."""
    import pyarrow.dataset as ds

    dataset = ds.dataset(str(file), schema=CHAIN_SCHEMA, format="parquet")
    batches: Iterator[pa.RecordBatch] = dataset.to_batches(batch_size=CHAINS_AT_ONCE)
    return batches
