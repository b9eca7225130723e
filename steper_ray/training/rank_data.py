"""The training data as one rank takes it: global batches, and its share of them as tensors."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steper_ray.training.batches import (
    MicroBatch,
    cut_micro_batches,
    epoch_batches,
    hold_out,
    steps_per_epoch,
)
from steper_ray.training.mix_data import MixData, MixOrder
from steper_ray.training.objective import count_abilities
from steper_ray.training.tokenization import TokenExample
from steper_ray.training.training_data import TrainingData, Unit
from steper_ray.training.worker_spec import WorkerTask

if TYPE_CHECKING:
    from steper_ray.training.tensors import Batch


@dataclass(frozen=True)
class GlobalBatch:
    """Chains that one optimizer step, or one validation, takes together."""

    units: list[Unit]
    lengths: list[int]
    """Tokens of each unit that go through the model."""
    chain_share: float
    """Share of the chains that are trained on."""
    mix_rows: int = 0
    """How many of the last units are rows of `train.mix`; the ability of these is the number behind those
    of the scheme."""

    @cached_property
    def examples(self) -> list[TokenExample]:
        """All examples, in the order of the units."""
        return [example for unit in self.units for example in unit.examples]

    def examples_of(self, micro_batch: MicroBatch) -> list[TokenExample]:
        """The examples of a micro-batch."""
        return [example for unit in micro_batch.units for example in self.units[unit].examples]

    def count_by_ability(self, abilities: int) -> tuple[int, ...]:
        """Number of step-wise examples of each of so many abilities."""
        return count_abilities([example.ability for example in self.examples], abilities)


class RankData:
    """The training data of a run, and what one rank computes of it."""

    def __init__(self, task: WorkerTask, *, rank: int, ranks: int, packed: bool) -> None:
        """task: with its training data prepared; packed: whether chains are packed"""
        train, seed = task.train, task.seed
        self.stored = TrainingData(Path(task.prepared))
        self.packed = packed
        self._train, self._seed, self._rank, self._ranks = train, seed, rank, ranks
        self.chains, self.held_out = hold_out(self.stored, train.validation_chains)
        index_E = [index for chain in self.chains for index in chain]
        self.trained_A = count_abilities(
            self.stored.ability_E[index_E].tolist(), len(self.stored.abilities)
        )
        """Examples of each ability that are trained on."""
        self.steps_per_epoch = steps_per_epoch(len(self.chains), train.chains_per_batch)
        self.steps = self.steps_per_epoch * train.epochs
        self._mix = MixData(Path(task.prepared_mix)) if train.mix else None
        if self._mix is not None and train.mix is not None:
            self._mix_order = MixOrder(
                len(self._mix),
                [len(chain) for chain in self.chains],
                ratio=train.mix.ratio,
                chains_per_batch=train.chains_per_batch,
                epochs=train.epochs,
                seed=seed,
            )

    def global_batch(self, step: int) -> GlobalBatch:
        """The chains of an optimizer step, counted from 0 over all epochs, and its rows of the mix."""
        chains = self._chains_of(step)
        batch = self._batch(chains, len(chains) / len(self.chains))
        rows = self._mix_rows(step)
        lengths = [len(unit.examples[0].ids) for unit in rows]
        return replace(
            batch,
            units=batch.units + rows,
            lengths=batch.lengths + lengths,
            mix_rows=len(rows),
        )

    def lengths(self, step: int) -> list[int]:
        """Tokens of each unit of an optimizer step, as `GlobalBatch.lengths`."""
        own = self.stored.unit_lengths(self._chains_of(step), packed=self.packed)
        return own + [len(unit.examples[0].ids) for unit in self._mix_rows(step)]

    def _mix_rows(self, step: int) -> list[Unit]:
        if self._mix is None:
            return []
        behind = len(self.stored.abilities)
        return [self._mix.unit(row, behind) for row in self._mix_order.of_step(step)]

    def validation_batch(self) -> GlobalBatch:
        """The chains that are held out."""
        return self._batch(self.held_out, 0.0)

    def _chains_of(self, step: int) -> list[range]:
        """The chains of an optimizer step, each as its examples' indices."""
        epoch, position = divmod(step, self.steps_per_epoch)
        batches = epoch_batches(
            len(self.chains), self._train.chains_per_batch, seed=self._seed, epoch=epoch
        )
        return [self.chains[number] for number in batches[position]]

    def _batch(self, chains: Sequence[range], share: float) -> GlobalBatch:
        stored, packed = self.stored, self.packed
        units = [unit for chain in chains for unit in stored.units(chain, packed=packed)]
        return GlobalBatch(units, stored.unit_lengths(chains, packed=packed), share)

    def cut(self, lengths: Sequence[int]) -> list[list[MicroBatch]]:
        """The micro-batches of each rank, of units of so many tokens each."""
        tokens = self._train.micro_batch_tokens
        return cut_micro_batches(lengths, tokens, self._ranks, padded=not self.packed)

    def micro_batches(
        self, batch: GlobalBatch, weight_E: Sequence[float] | None, device: Any
    ) -> "Iterator[tuple[MicroBatch, Batch, bool]]":
        """This rank's share of a global batch, as tensors, and whether each micro-batch is its last.

        weight_E: weight in the loss of each of the batch's examples; None: nothing will be learned
        """
        cut = self.cut(batch.lengths)[self._rank]
        weights = iter(weight_E or [0.0] * len(batch.examples))
        weights_of = [[next(weights) for _ in unit.examples] for unit in batch.units]
        for number, micro_batch in enumerate(cut, 1):
            # DeepSpeed averages gradients over the ranks; L is their sum.
            factor = self._ranks * float(micro_batch.counted)
            chosen = [factor * weight for unit in micro_batch.units for weight in weights_of[unit]]
            units = [batch.units[unit] for unit in micro_batch.units]
            yield micro_batch, self._tensors(units, chosen, device), number == len(cut)

    def _tensors(self, units: Sequence[Unit], weight_E: Sequence[float], device: Any) -> "Batch":
        from steper_ray.training.tensors import packed_batch, padded_batch

        pad = self.stored.about["pad"]
        if self.packed:
            chains, trees = [unit.examples for unit in units], [unit.tree for unit in units]
            return packed_batch(chains, trees, weight_E, pad, device)
        examples = [example for unit in units for example in unit.examples]
        return padded_batch(examples, weight_E, pad, device)
