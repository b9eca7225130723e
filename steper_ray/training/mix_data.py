"""Rows of `train.mix` on disk, as token ids, and which of them each optimizer step takes.

    <prepared>/mix/<key>/about.json           what they were made from, and their counts
    <prepared>/mix/<key>/part-00000.arrow …   some rows each

The key stands for the rows, the tokenizer with its chat template, and the length that rows are cut at. So
trainings with other ratios, weights, objectives or examples share it.
"""

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError
from steper_ray.files import new_folder, write_whole
from steper_ray.models.settings import HubConfig
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.run.dependencies import prepared_mix_identity
from steper_ray.run.identity import digest
from steper_ray.training.batches import epoch_batches
from steper_ray.training.mix import MixExample, MixRow, MixTokenizer, read_mix
from steper_ray.training.packing import tree_of
from steper_ray.training.tokenization import TokenExample
from steper_ray.training.training_data import (
    ABOUT_FILE,
    Unit,
    extremes,
    open_parts,
    write_part,
)

if TYPE_CHECKING:
    from datetime import date

    import pyarrow as pa

    from steper_ray.training.worker_spec import WorkerTask

ROWS_PER_BLOCK: Final = 1024


MIX: Final = "mix"
"""Folder below that of all prepared data; and the chain that rows belong to, in names of examples."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How token ids are made from rows."""

    model: str
    revision: str | None
    hub: HubConfig
    day: "date"
    longest: int


def prepare_mix(task: "WorkerTask", parent: Path) -> Path | None:
    """The folder with the rows of `train.mix` of a task, made if it is not there; None without a mix.

    Says in one line what was made, cut and skipped.

    parent: holds all prepared training data
    Raises InputError for data that cannot be used.
    """
    train = task.train
    if train.mix is None:
        return None
    longest = min(
        _positions(task), task.reasoning.max_prompt_tokens + task.reasoning.max_step_tokens
    )
    identity = prepared_mix_identity(
        task.reasoning, model=task.base_model, mix=task.mix, longest=longest
    )
    folder = parent / MIX / digest(identity)[:12]
    if not (folder / ABOUT_FILE).is_file():
        found = read_mix(train.mix)
        starts = range(0, len(found.rows), ROWS_PER_BLOCK)
        blocks = [found.rows[start : start + ROWS_PER_BLOCK] for start in starts]
        recipe = Recipe(
            train.model, train.revision, task.hub, task.reasoning.template_date, longest
        )
        with new_folder(folder) as new:
            work = partial(_prepare_block, recipe=recipe, folder=new)
            numbered = list(enumerate(blocks))
            parts = list(parallel_map(work, numbered) if len(blocks) > 1 else map(work, numbered))
            about = {"made_from": identity, "read": found.read, **_merged(parts, found.skipped)}
            _check(about)
            write_whole(new / ABOUT_FILE, json.dumps(about, indent=2, ensure_ascii=False) + "\n")
    print(f"  train  {_said(MixData(folder).about, longest)}")
    return folder


def _positions(task: "WorkerTask") -> int:
    """Tokens that the student was made for."""
    from steper_ray.models.loading import load_model_config

    config = load_model_config(task.train.model, task.hub, task.train.revision).get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or sys.maxsize)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    return pa.schema({"number": pa.int64(), "ids": ids, "spans": ids})


def _prepare_block(
    block: tuple[int, Sequence[MixRow]], *, recipe: Recipe, folder: Path
) -> dict[str, Any]:
    """Write the part of some rows; returns its counts."""
    number, rows = block
    tokenizer = _tokenizer(recipe)
    made = [tokenizer.encode(row) for row in rows]
    examples = [one for one in made if isinstance(one, MixExample)]
    columns = [{"number": one.number, "ids": one.ids, "spans": list(one.spans)} for one in examples]
    write_part(folder, number, columns, _schema())
    largest = max(examples, key=lambda one: int(one.ids.max()), default=None)
    longest = max(examples, key=lambda one: len(one.ids), default=None)
    return {
        "rows": len(examples),
        "cut": sum(one.cut for one in examples),
        "tokens": sum(len(one.ids) for one in examples),
        "supervised_tokens": sum(one.learned for one in examples),
        "skipped": Counter(one for one in made if isinstance(one, str)),
        "longest": longest and _length(longest),
        "largest_id": largest and {"example": f"mix, {largest.name}", "id": int(largest.ids.max())},
    }


def _length(one: MixExample) -> dict[str, Any]:
    return {"example": f"mix, {one.name}", "tokens": len(one.ids), "target_tokens": one.learned}


def _merged(parts: Sequence[Mapping[str, Any]], skipped: Counter[str]) -> dict[str, Any]:
    """The counts of all parts together, with what was skipped before."""
    skipped = sum((part["skipped"] for part in parts), skipped)
    added = ("rows", "cut", "tokens", "supervised_tokens")
    return {
        **{name: sum(part[name] for part in parts) for name in added},
        "skipped": dict(skipped.most_common()),
        **extremes(parts),
    }


def _check(about: Mapping[str, Any]) -> None:
    if not about["rows"]:
        raise InputError(
            f"train.mix.data: none of {about['read']:,} rows can be used: {_reasons(about)}; take other "
            "data"
        )


def _said(about: Mapping[str, Any], longest: int) -> str:
    """One line about the rows that are used, cut and skipped."""
    left = about["read"] - about["rows"] - sum(about["skipped"].values())
    parts = [
        f"mix: {about['rows']:,} of {about['read']:,} rows, {about['supervised_tokens']:,} tokens to learn",
        about["cut"] and f"{about['cut']:,} cut at {longest:,} tokens",
        about["skipped"] and f"skipped {_reasons(about)}",
        left and f"{left:,} more than train.mix.max_rows",
    ]
    return "; ".join(part for part in parts if part)


def _reasons(about: Mapping[str, Any]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in about["skipped"].items())


@lru_cache(1)
def _tokenizer(recipe: Recipe) -> MixTokenizer:
    from steper_ray.models.hub import use_hub
    from steper_ray.models.loading import load_tokenizer

    use_hub(recipe.hub)
    tokenizer = load_tokenizer(recipe.model, recipe.hub, recipe.revision)
    return MixTokenizer(tokenizer, recipe.day, recipe.longest)


class MixData:
    """The rows, as they lie on disk."""

    def __init__(self, folder: Path) -> None:
        """folder: from `prepare_mix`"""
        import pyarrow as pa

        self.about, tables = open_parts(folder)
        """Counts and more; and the parts."""
        self._table = pa.concat_tables(tables)

    def __len__(self) -> int:
        return len(self._table)

    def unit(self, row: int, ability: int) -> Unit:
        """A row, alone in its tree; ability: the number to give it"""
        spans = tuple(self._table["spans"][row].as_py())
        ids = self._table["ids"][row].values.to_numpy()
        number = self._table["number"][row].as_py()
        learned = sum(spans[1::2]) - sum(spans[::2])
        example = TokenExample(MIX, number, ability, ids, learned, spans=spans)
        return Unit([example], tree_of([0], [len(ids)]))


class MixOrder:
    """Which rows each optimizer step takes: every row once before any comes again."""

    def __init__(
        self,
        rows: int,
        examples_C: Sequence[int],
        *,
        ratio: float,
        chains_per_batch: int,
        epochs: int,
        seed: int,
    ) -> None:
        """rows: how many there are; examples_C: how many examples each chain has

        The others: of the training.
        """
        self._rows, self._examples_C, self._ratio = rows, examples_C, ratio
        self._chains_per_batch, self._epochs, self._seed = chains_per_batch, epochs, seed

    @cached_property
    def _starts(self) -> list[int]:
        """How many rows all steps before a step took, for each step; and all steps."""
        starts = [0]
        for epoch in range(self._epochs):
            for batch in epoch_batches(
                len(self._examples_C), self._chains_per_batch, seed=self._seed, epoch=epoch
            ):
                examples = sum(self._examples_C[chain] for chain in batch)
                starts.append(starts[-1] + max(1, round(self._ratio * examples)))
        return starts

    def of_step(self, step: int) -> list[int]:
        """The rows of an optimizer step, counted from 0."""
        taken = range(self._starts[step], self._starts[step + 1])
        return [_order(self._rows, self._seed, at // self._rows)[at % self._rows] for at in taken]


@lru_cache(2)
def _order(rows: int, seed: int, time: int) -> list[int]:
    """The order in which all rows come for the first, second … time."""
    import numpy as np

    order: list[int] = np.random.default_rng((seed, time, 1)).permutation(rows).tolist()
    return order
