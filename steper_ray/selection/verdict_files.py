"""Verdicts on files of chains: each file is judged, the final verdicts are chosen, each file is rewritten.

One batch of a file is unpacked at a time; of all chains only the `Judgement`s are in memory together.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.rows import chain_from_row, read_batches, read_file
from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.selection.choice import Judgement, choose, judge
from steper_ray.selection.settings import SelectConfig
from steper_ray.selection.statistics import Counts


def judge_file(
    file: Path,
    *,
    select: SelectConfig,
    reasoning: ReasoningConfig,
    teachers: Sequence[str],
) -> list[Judgement]:
    """Judgement of each chain of a file by itself; see `judge`."""
    framework = framework_named(reasoning.framework)
    return [judge(chain, select, framework, teachers) for chain in read_file(file)]


def rewrite_file(
    job: tuple[Path, Path, Mapping[str, str | None]], *, scheme: AbilityScheme
) -> Counts:
    """Write a file of chains to a folder with new verdicts, and count its chains by them.

    job: file, folder, chain id → verdict
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, folder, verdicts = job
    counts = Counts()
    index = CHAIN_SCHEMA.get_field_index("rejected")
    with pq.ParquetWriter(folder / file.name, CHAIN_SCHEMA) as writer:
        for batch in read_batches(file):
            for row in batch.to_pylist():
                counts.add(chain_from_row(row), verdicts[row["id"]], scheme)
            column = pa.array([verdicts[i] for i in batch["id"].to_pylist()], pa.string())
            writer.write_batch(batch.set_column(index, CHAIN_SCHEMA.field(index), column))
    return counts


def final_verdicts(
    judged: Mapping[Path, Sequence[Judgement]], select: SelectConfig
) -> dict[str, str | None]:
    """Chain id → verdict, chosen among all chains; raises InputError for an id that two chains have."""
    first: dict[str, Path] = {}
    for file, rows in judged.items():
        for row in rows:
            if row.id in first:
                raise InputError(
                    f"{file}: a chain has the id {row.id!r}, as one in {first[row.id]}; take one away"
                )
            first[row.id] = file
    return choose([row for rows in judged.values() for row in rows], select)
