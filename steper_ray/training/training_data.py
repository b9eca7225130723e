"""Training data as a worker takes it: token ids on disk, mapped into memory, laid out as prefix trees.

`steper_ray.training.preparation` writes the folder. All workers of a machine share its pages; beside them a
worker holds some twenty bytes an example.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError
from steper_ray.training.packing import Block, tree_of
from steper_ray.training.tokenization import TokenExample

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

ABOUT_FILE: Final = "about.json"


PARTS: Final = "part-*.arrow"


def part_schema() -> "pa.Schema":
    """Columns of a part: a row an example, the examples of a chain one after the other, depth first."""
    import pyarrow as pa

    return pa.schema(
        {
            "chain_id": pa.string(),
            "step": pa.int32(),
            "ability": pa.int8(),  # index into the scheme's names
            "question": pa.string(),
            "ids": pa.list_(pa.int32()),  # prompt, then target
            "target_tokens": pa.int32(),
            "start": pa.int32(),  # tokens that it shares with the example before it
            "first": pa.bool_(),  # of its chain
        }
    )


@dataclass(frozen=True, slots=True)
class Unit:
    """Examples laid out together: where packed, those of a chain, depth first; else one example."""

    examples: list[TokenExample]
    tree: list[Block]


def write_part(
    folder: Path, number: int, rows: Sequence[Mapping[str, Any]], schema: "pa.Schema"
) -> None:
    """Write a part of data on disk."""
    import pyarrow as pa

    table = pa.Table.from_pylist(list(rows), schema)
    with pa.ipc.new_file(str(folder / f"part-{number:05d}.arrow"), schema) as writer:
        writer.write_table(table.combine_chunks())


def open_parts(folder: Path) -> "tuple[dict[str, Any], list[pa.Table]]":
    """What ABOUT_FILE says of data on disk, and its parts in order, mapped into memory."""
    import pyarrow as pa

    about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    files = sorted(folder.glob(PARTS))
    return about, [pa.ipc.open_file(pa.memory_map(str(file))).read_all() for file in files]


def extremes(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The longest example and the largest token id of all parts, each with the example's name.

    parts: counts of each, with `longest` and `largest_id`; None in a part without an example
    """
    counts = list(parts)
    longest = [part["longest"] for part in counts if part["longest"]]
    largest = [part["largest_id"] for part in counts if part["largest_id"]]
    return {
        "longest": max(longest, key=lambda of: of["tokens"], default=None),
        "largest_id": max(largest, key=lambda of: of["id"], default=None),
    }


class TrainingData:
    """All examples of a training, as they lie on disk."""

    def __init__(self, folder: Path) -> None:
        """folder: from `steper_ray.training.preparation.prepare`"""
        import numpy as np
        import pyarrow as pa

        self.about, tables = open_parts(folder)
        """Counts and more, see `preparation.py`; and the parts."""
        self._table = pa.concat_tables(tables)
        self.ability_E: NDArray[np.int8] = self._table["ability"].to_numpy()
        self.target_E: NDArray[np.int32] = self._table["target_tokens"].to_numpy()
        self._start_E: NDArray[np.int32] = self._table["start"].to_numpy()
        parts = [chunk for table in tables for chunk in table["ids"].chunks]
        self._ids = [part.values.to_numpy() for part in parts]
        self._offsets = [part.offsets.to_numpy() for part in parts]
        self._part_starts = np.cumsum([0, *map(len, parts)])
        self.length_E: NDArray[np.int32] = np.concatenate(
            [np.diff(offsets) for offsets in self._offsets]
        )
        """Tokens of each example, its target included."""
        firsts = np.flatnonzero(self._table["first"].to_numpy()).tolist()
        ends = [*firsts[1:], len(self.length_E)]
        self.chains = [range(first, end) for first, end in zip(firsts, ends, strict=True)]
        """Per chain, in order of their ids, its examples' indices."""

    @property
    def abilities(self) -> tuple[str, ...]:
        """Names that the examples' abilities are indices into."""
        return tuple(self.about["abilities"])

    @property
    def dropped_passages(self) -> int:
        """Passages left out of prompts that would have outgrown the context, over all examples."""
        return int(self.about["dropped_passages"])

    def question(self, index: int) -> str:
        """Question of an example."""
        return str(self._table["question"][index])

    def example(self, index: int) -> TokenExample:
        """An example; its ids are a view of the file."""
        part = int(self._part_starts.searchsorted(index, "right")) - 1
        offsets, row = self._offsets[part], index - int(self._part_starts[part])
        chain_id, step, question = (
            self._table[name][index].as_py() for name in ("chain_id", "step", "question")
        )
        return TokenExample(
            chain_id,
            step,
            int(self.ability_E[index]),
            self._ids[part][offsets[row] : offsets[row + 1]],
            int(self.target_E[index]),
            question,
        )

    def units(self, chain: range, *, packed: bool) -> list[Unit]:
        """The units of a chain."""
        examples = [self.example(index) for index in chain]
        length_E = [len(example.ids) for example in examples]
        if packed:
            return [Unit(examples, tree_of(self._start_E[chain].tolist(), length_E))]
        trees = [tree_of([0], [length]) for length in length_E]
        return [Unit([example], tree) for example, tree in zip(examples, trees, strict=True)]

    def unit_lengths(self, chains: Sequence[range], *, packed: bool) -> list[int]:
        """Tokens that go through the model for each unit of some chains, in the order of `units`."""
        if not packed:
            return [int(self.length_E[index]) for chain in chains for index in chain]
        own_E = self.length_E - self._start_E
        return [int(own_E[chain.start : chain.stop].sum()) for chain in chains]


def check_examples(about: dict[str, Any], *, vocabulary: int, positions: int) -> None:
    """Raises InputError for examples that the model cannot take.

    about: of training data; vocabulary: rows of the embedding; positions: most tokens it was made for
    """
    longest, largest = about["longest"], about["largest_id"]
    if longest["tokens"] > positions:
        raise InputError(
            f"train.model: {longest['example']} has {longest['tokens']:,} tokens, "
            f"{longest['target_tokens']:,} of them its target, but the model takes {positions:,}; "
            "lower reasoning.max_prompt_tokens"
        )
    if largest["id"] >= vocabulary:
        raise InputError(
            f"train.model: {largest['example']} has token {largest['id']}, but the model knows only "
            f"{vocabulary:,}; the folder's tokenizer belongs to another model"
        )
