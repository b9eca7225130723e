"""Training data as a worker takes it: examples tokenized, checked, and laid out as prefix trees.

A worker prepares its data itself, unless a file has them. A sweep writes that file once for each setting of
the data, and all its trials read it: tokenizing is most of what a short trial would do before its first
step. Prefix trees are computed at first use; the file has all of them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.files import new_file
from steper_ray.training.objective import objective_named
from steper_ray.training.packing import Block, depth_first, prefix_tree
from steper_ray.training.tokenization import (
    TokenExample,
    TokenizedData,
    check_examples,
    tokenize_examples,
)

if TYPE_CHECKING:
    from steper_ray.training.worker_spec import WorkerTask


DROPPED: Final = b"dropped_passages"


ABILITIES: Final = b"abilities"


@dataclass(frozen=True, slots=True)
class Unit:
    """Examples laid out together: where packed, those of a chain, depth first; else one example."""

    examples: list[TokenExample]
    tree: list[Block]


@dataclass(frozen=True, slots=True)
class TrainingData:
    """All examples of a run, and the units of its chains."""

    data: TokenizedData
    packed: bool
    _trees: dict[int, list[Block]] = field(default_factory=dict)
    """By a unit's first example."""

    def units(self, chain: Sequence[int]) -> list[Unit]:
        """The units of a chain, which names its examples by index."""
        if not self.packed:
            return [self._unit([index]) for index in chain]
        order = depth_first([self.data.examples[index].ids for index in chain])
        return [self._unit([chain[index] for index in order])]

    def _unit(self, part: Sequence[int]) -> Unit:
        examples = [self.data.examples[index] for index in part]
        if part[0] not in self._trees:
            self._trees[part[0]] = prefix_tree([example.ids for example in examples])
        return Unit(examples, self._trees[part[0]])


def prepare_data(
    task: "WorkerTask", tokenizer: Any, model_config: Any, *, packed: bool
) -> TrainingData:
    """Training data from the task's prepared file if it has one, else from the step-wise examples.

    model_config: of the text model; raises InputError for examples that it cannot take
    """
    if task.prepared is not None:
        return read_prepared(Path(task.prepared))
    data = tokenize_examples(
        [Path(file) for file in task.stepwise_files],
        tokenizer,
        reasoning=task.reasoning,
        scheme=task.scheme,
        abilities=task.train.abilities,
        whole_path=objective_named(task.train.objective).whole_path,
    )
    check_examples(
        data.examples,
        vocabulary=model_config.vocab_size,
        positions=getattr(model_config, "max_position_embeddings", sys.maxsize),
    )
    return TrainingData(data, packed)


def prepare_file(task: "WorkerTask", path: Path) -> None:
    """Write the training data of a task to a file, unless that exists already."""
    from steper_ray.models.hub import use_hub
    from steper_ray.models.loading import load_model_config, load_tokenizer
    from steper_ray.training.attention import packing_obstacle

    if path.is_file():
        return
    use_hub(task.hub)
    model_config = load_model_config(task.train.model, task.hub, task.train.revision)
    packed = task.train.packing and packing_obstacle(model_config) is None
    tokenizer = load_tokenizer(task.train.model, task.hub, task.train.revision)
    write_prepared(
        prepare_data(task, tokenizer, model_config.get_text_config(), packed=packed), path
    )


def write_prepared(prepared: TrainingData, path: Path) -> None:
    """Write a Parquet file with a row an example, whole or not at all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for chain in prepared.data.chains:
        for unit in prepared.units(chain):
            rows += [
                {
                    "chain_id": example.chain_id,
                    "step": example.step,
                    "ability": example.ability,
                    "question": example.question,
                    "ids": example.ids,
                    "target_tokens": example.target_tokens,
                    "start": block.start,
                    "runs": [count for run in block.runs for count in run],
                }
                for example, block in zip(unit.examples, unit.tree, strict=True)
            ]
    schema = pa.schema(
        {
            "chain_id": pa.string(),
            "step": pa.int32(),
            "ability": pa.int8(),
            "question": pa.string(),
            "ids": pa.list_(pa.int32()),
            "target_tokens": pa.int32(),
            "start": pa.int32(),
            "runs": pa.list_(pa.int32()),
        },
        metadata={
            DROPPED: str(prepared.data.dropped_passages),
            b"packed": str(int(prepared.packed)),
            ABILITIES: ",".join(prepared.data.abilities),
        },
    )
    with new_file(path, encoding=None) as file:
        pq.write_table(pa.Table.from_pylist(rows, schema), file)


def read_prepared(path: Path) -> TrainingData:
    """Training data as `write_prepared` wrote it."""
    import numpy as np
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    packed = bool(int(table.schema.metadata[b"packed"]))
    examples: list[TokenExample] = []
    chains: dict[str, list[int]] = {}
    trees: dict[int, list[Block]] = {}
    for index, row in enumerate(table.to_pylist()):
        ids = np.array(row["ids"], dtype=np.int32)
        examples.append(
            TokenExample(
                row["chain_id"],
                row["step"],
                row["ability"],
                ids,
                row["target_tokens"],
                row["question"],
            )
        )
        chain = chains.setdefault(row["chain_id"], [])
        chain.append(index)
        runs = tuple(zip(row["runs"][::2], row["runs"][1::2], strict=True))
        trees.setdefault(chain[0] if packed else index, []).append(Block(row["start"], runs))
    dropped = int(table.schema.metadata[DROPPED])
    abilities = tuple(table.schema.metadata[ABILITIES].decode().split(","))
    data = TokenizedData(examples, list(chains.values()), dropped, abilities)
    return TrainingData(data, packed, trees)
