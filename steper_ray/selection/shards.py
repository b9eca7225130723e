"""Shards of examples, in the order of the chains' ids: however the chains are spread over files."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from steper_ray.arrow import CHAIN_SCHEMA, STEP_EXAMPLE_SCHEMA
from steper_ray.chains.rows import chain_from_row
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.selection.choice import Judgement
from steper_ray.selection.examples import step_examples

CHAINS_PER_SHARD: Final = 2_000


CHAINS_PER_ROW_GROUP: Final = 64


@dataclass(frozen=True, slots=True)
class Shard:
    """One Parquet file of examples, yet to be written."""

    name: str
    ids: tuple[str, ...]
    """Ids of its chains, in order."""
    files: tuple[Path, ...]
    """Files that hold these chains."""


def plan_shards(
    judged: Mapping[Path, Sequence[Judgement]], verdicts: Mapping[str, str | None]
) -> list[Shard]:
    """The kept chains in the order of their ids, CHAINS_PER_SHARD to a shard; at least one shard."""
    where = {j.id: file for file, rows in judged.items() for j in rows if verdicts[j.id] is None}
    ids = sorted(where)
    cuts = range(0, max(1, len(ids)), CHAINS_PER_SHARD)
    shards = []
    for number, start in enumerate(cuts):
        part = tuple(ids[start : start + CHAINS_PER_SHARD])
        name = f"train-{number:05d}-of-{len(cuts):05d}.parquet"
        shards.append(Shard(name, part, tuple(sorted({where[chain_id] for chain_id in part}))))
    return shards


def write_shard(
    shard: Shard, *, folder: Path, reasoning: ReasoningConfig, scheme: AbilityScheme
) -> None:
    """Write the examples of a shard's chains, in the order of the chains and of their steps."""
    import pyarrow as pa
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    ids = pa.array(shard.ids, pa.string())
    with pq.ParquetWriter(folder / shard.name, STEP_EXAMPLE_SCHEMA) as writer:
        if not shard.ids:
            writer.write_table(STEP_EXAMPLE_SCHEMA.empty_table())
            return
        dataset = ds.dataset([str(file) for file in shard.files], schema=CHAIN_SCHEMA)
        table = dataset.to_table(filter=ds.field("id").isin(ids)).sort_by("id").combine_chunks()
        for batch in table.to_batches(max_chunksize=CHAINS_PER_ROW_GROUP):
            chains = [chain_from_row(row) for row in batch.to_pylist()]
            rows = [
                asdict(example)
                for chain in chains
                for example in step_examples(chain, reasoning, scheme)
            ]
            writer.write_table(pa.Table.from_pylist(rows, schema=STEP_EXAMPLE_SCHEMA))
