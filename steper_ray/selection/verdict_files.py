"""Verdicts on the chains' files: each file judged alone, the kept shared out, each file written with them.

Only a batch of a file is unpacked at a time; of all chains no more is held than `Judged`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.asking import score_again
from steper_ray.chains.rows import chain_from_row, read_batches, read_file
from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import SCORES
from steper_ray.selection.choice import Judgement, choose, judge
from steper_ray.selection.settings import SelectConfig
from steper_ray.selection.statistics import Counts
from steper_ray.tasks import task_named
from steper_ray.tasks.protocol import Task


def judge_file(
    file: Path,
    *,
    select: SelectConfig,
    reasoning: ReasoningConfig,
    teachers: Sequence[str],
    task: str,
) -> list[Judgement]:
    """The verdict on each chain of a file, looked at alone; see `judge`."""
    framework = framework_named(reasoning.framework)
    return [
        judge(chain, select, framework, teachers, task_named(task)) for chain in read_file(file)
    ]


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
        for batch in read_batches(file):
            for row in batch.to_pylist():
                counts.add(chain_from_row(row), verdicts[row["id"]])
            now = pa.array([verdicts[i] for i in batch["id"].to_pylist()], pa.string())
            writer.write_batch(batch.set_column(place, CHAIN_SCHEMA.field(place), now))
    return counts


def score_file(job: tuple[Path, Path, Framework, Task]) -> None:
    """Write a file of chains to a folder, with answers and scores by the rules of today.

    job: file, folder, framework by which the chains were written, task that scores them
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, folder, framework, task = job
    with pq.ParquetWriter(folder / file.name, CHAIN_SCHEMA) as writer:
        for batch in read_batches(file):
            chains = [
                score_again(chain_from_row(row), framework, task) for row in batch.to_pylist()
            ]
            for name in ("answer", *SCORES):
                place = CHAIN_SCHEMA.get_field_index(name)
                field = CHAIN_SCHEMA.field(place)
                now = pa.array([getattr(chain, name) for chain in chains], field.type)
                batch = batch.set_column(place, field, now)
            writer.write_batch(batch)


def final_verdicts(
    judged: Mapping[Path, Sequence[Judgement]], select: SelectConfig
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
