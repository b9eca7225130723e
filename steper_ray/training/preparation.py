"""Step-wise examples → token ids on disk, once for all trainings that learn from the same in the same way.

    <folder>/<key>/about.json            what it was made from, and its counts
    <folder>/<key>/part-00000.arrow …    the examples of some chains (`training_data.part_schema`)

The key stands for the examples, the tokenizer with its chat template, and how prompts are made; not for
the settings of the training itself. So the trainings of `steper compare` and the trials of a sweep share
it, and a training that resumes finds it. The work is done in blocks of chains on the cluster's cores. Data
that was prepared from other examples is removed.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.files import new_folder, write_whole
from steper_ray.models.settings import HubConfig
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.batch_encoder import BatchEncoder
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.dependencies import prepared_identity
from steper_ray.run.identity import Record, digest
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.training.objective import objective_named
from steper_ray.training.packing import depth_first, shared_prefixes
from steper_ray.training.tokenization import (
    READ_COLUMNS,
    TokenExample,
    check_present,
    checked_rows,
    tokenize_rows,
    trained_abilities,
)
from steper_ray.training.training_data import ABOUT_FILE, extremes, part_schema, write_part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from steper_ray.training.worker_spec import WorkerTask

CHAINS_PER_BLOCK: Final = 512


Progress = Callable[[int, int], None]
"""Told how many of how many blocks are done."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How token ids are made from examples."""

    model: str
    revision: str | None
    hub: HubConfig
    reasoning: ReasoningConfig
    scheme: AbilityScheme
    abilities: tuple[str, ...]
    whole_path: bool


@dataclass(frozen=True, slots=True)
class ChainBlock:
    """Some chains, neighbours in the order of their ids: where their rows are."""

    number: int
    rows: Mapping[Path, "NDArray[np.int64]"]
    """Row numbers by file."""


def prepare(task: "WorkerTask", parent: Path, on_progress: Progress | None = None) -> Path:
    """The folder with the training data of a task, made if it is not there; it is used where it is.

    parent: holds a folder for each key

    Raises InputError for examples that cannot be used.
    """
    train = task.train
    folder, identity = _prepared(task, parent)
    if (folder / ABOUT_FILE).is_file():
        return folder
    _remove_others(parent, task.examples)
    whole_path, abilities = (
        objective_named(train.objective).whole_path,
        tuple(identity["abilities"]),
    )
    recipe = Recipe(
        train.model, train.revision, task.hub, task.reasoning, task.scheme, abilities, whole_path
    )
    files = [Path(file) for file in task.stepwise_files]
    blocks = plan_blocks(files)
    with new_folder(folder) as new:
        # one block alone is done sooner here than in a process that is yet to start
        spread = len(blocks) > 1
        work = partial(prepare_block, recipe=recipe, folder=new, one_core=spread)
        parts = []
        for part in parallel_map(work, blocks) if spread else map(work, blocks):
            parts.append(part)
            if on_progress is not None:
                on_progress(len(parts), len(blocks))
        about = {"made_from": identity, "abilities": task.scheme.names, **_merged(parts)}
        check_present(abilities, about["examples"], files[0].parent)
        write_whole(new / ABOUT_FILE, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    return folder


def is_prepared(task: "WorkerTask", parent: Path) -> bool:
    """Whether the training data of a task is there."""
    return (_prepared(task, parent)[0] / ABOUT_FILE).is_file()


def _prepared(task: "WorkerTask", parent: Path) -> tuple[Path, Record]:
    """The folder of a task's training data, and the record that it is called after."""
    train = task.train
    whole_path = objective_named(train.objective).whole_path
    identity = prepared_identity(
        task.reasoning,
        model=task.base_model,
        examples=task.examples,
        scheme=task.scheme.record(),
        abilities=trained_abilities(task.scheme, train.abilities, whole_path=whole_path),
        whole_path=whole_path,
    )
    return parent / digest(identity)[:12], identity


def _remove_others(parent: Path, examples: str) -> None:
    """Remove data that was prepared from other examples, which are gone."""
    for file in parent.glob(f"*/{ABOUT_FILE}"):
        about = json.loads(file.read_text(encoding="utf-8"))
        if about["made_from"]["examples"] != examples:
            shutil.rmtree(file.parent, ignore_errors=True)


def plan_blocks(files: Sequence[Path]) -> list[ChainBlock]:
    """The chains of all files in the order of their ids, CHAINS_PER_BLOCK to a block."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    ids = [pq.read_table(file, columns=["chain_id"])["chain_id"] for file in files]
    file_R = np.repeat(np.arange(len(files)), [len(column) for column in ids])
    row_R = np.concatenate([np.arange(len(column)) for column in ids])
    column = pa.chunked_array([chunk for each in ids for chunk in each.chunks], pa.string())
    order = pc.sort_indices(column).to_numpy()
    ordered = column.take(pa.array(order)).combine_chunks()
    starts = np.flatnonzero(pc.not_equal(ordered[1:], ordered[:-1]).to_numpy(False)) + 1
    cuts = [0, *starts[CHAINS_PER_BLOCK - 1 :: CHAINS_PER_BLOCK].tolist(), len(order)]
    blocks = []
    for number, (start, end) in enumerate(pairwise(cuts)):
        chosen = order[start:end]
        rows = {
            files[file]: np.sort(row_R[chosen[file_R[chosen] == file]])
            for file in np.unique(file_R[chosen]).tolist()
        }
        blocks.append(ChainBlock(number, rows))
    return blocks


def prepare_block(
    block: ChainBlock, *, recipe: Recipe, folder: Path, one_core: bool = False
) -> dict[str, Any]:
    """Write the part of a block; returns its counts.

    one_core: other blocks are at work on this machine
    """

    from steper_ray.models.hub import use_hub

    use_hub(recipe.hub)
    if one_core:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
    reasoning = recipe.reasoning
    encoder, pad = _encoder(recipe.model, recipe.revision, recipe.hub, reasoning)
    examples, dropped = tokenize_rows(
        [row for file, rows in block.rows.items() for row in _rows(file, rows, recipe.scheme)],
        encoder,
        reasoning=reasoning,
        scheme=recipe.scheme,
        abilities=recipe.abilities,
        whole_path=recipe.whole_path,
    )
    chains = [list(part) for _, part in groupby(examples, key=lambda example: example.chain_id)]
    rows = [row for chain in chains for row in _laid_out(chain)]
    write_part(folder, block.number, rows, part_schema())
    return {
        "chains": len(chains),
        "examples": dict(Counter(recipe.scheme.names[example.ability] for example in examples)),
        "tokens": sum(len(example.ids) for example in examples),
        "packed_tokens": sum(len(row["ids"]) - row["start"] for row in rows),
        "supervised_tokens": sum(example.target_tokens for example in examples),
        "dropped_passages": dropped,
        "longest": max(map(_length, examples), key=lambda of: of["tokens"], default=None),
        "largest_id": max(map(_largest, examples), key=lambda of: of["id"], default=None),
        "pad": pad,
        "chat": encoder.chat,
    }


def _merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The counts of all parts together."""
    added = ("chains", "tokens", "packed_tokens", "supervised_tokens", "dropped_passages")
    examples: Counter[str] = Counter()
    for part in parts:
        examples.update(part["examples"])
    return {
        **{name: sum(part[name] for part in parts) for name in added},
        "examples": dict(examples),
        **extremes(parts),
        "pad": parts[0]["pad"],
        "chat": parts[0]["chat"],
    }


@lru_cache(1)
def _encoder(
    model: str, revision: str | None, hub: HubConfig, reasoning: ReasoningConfig
) -> tuple[BatchEncoder, int]:
    """The encoder of this process, with what earlier blocks taught it; and the id to fill rows up with."""
    from steper_ray.models.loading import load_tokenizer

    tokenizer = load_tokenizer(model, hub, revision)
    encoder = BatchEncoder(tokenizer, reasoning.chat, reasoning.template_date)
    return encoder, tokenizer.pad_token_id or 0


def _rows(file: Path, rows: "NDArray[np.int64]", scheme: AbilityScheme) -> Iterator[dict[str, Any]]:
    """Some rows of a file; no row group is read that has none of them."""
    import numpy as np
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as parquet:
        groups = range(parquet.num_row_groups)
        sizes = [parquet.metadata.row_group(group).num_rows for group in groups]
        ends = np.cumsum(sizes)
        of_row = ends.searchsorted(rows, "right")
        wanted = np.unique(of_row)
        # where each wanted group begins among the rows that are read
        begins = np.cumsum([0, *(sizes[group] for group in wanted)])[:-1]
        at = rows - (ends - sizes)[of_row] + begins[wanted.searchsorted(of_row)]
        table = parquet.read_row_groups(wanted.tolist(), columns=list(READ_COLUMNS)).take(at)
    yield from checked_rows(table.to_pylist(), file, scheme.names)


def _laid_out(chain: Sequence[TokenExample]) -> list[dict[str, Any]]:
    """The rows of a chain's examples, depth first."""
    ordered = [chain[index] for index in depth_first([example.ids for example in chain])]
    starts = shared_prefixes([example.ids for example in ordered])
    return [
        {
            "chain_id": example.chain_id,
            "step": example.step,
            "ability": example.ability,
            "question": example.question,
            "ids": example.ids,
            "target_tokens": example.target_tokens,
            "start": start,
            "first": number == 0,
        }
        for number, (example, start) in enumerate(zip(ordered, starts, strict=True))
    ]


def _named(example: TokenExample) -> str:
    return f"chain {example.chain_id}, step {example.step}"


def _length(example: TokenExample) -> dict[str, Any]:
    tokens, target = len(example.ids), example.target_tokens
    return {"example": _named(example), "tokens": tokens, "target_tokens": target}


def _largest(example: TokenExample) -> dict[str, Any]:
    return {"example": _named(example), "id": int(example.ids.max())}
