"""Which examples are trained on, in which order, and how a global batch is cut into micro-batches.

A global batch is N chains with all their examples. Everything here is a function of the data, the
seed and the epoch; the number of workers and the size of a micro-batch decide only who computes
what. The gradient is the same for every cut, because an example's weight in the loss is fixed
before (see `steper_ray.training.objective`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from steper_ray.errors import InputError
from steper_ray.training.training_data import TrainingData


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Units that go through the model together: chains where they are packed, else examples."""

    units: tuple[int, ...]
    counted: bool
    """False for a stand-in: its loss is multiplied by 0 and it only keeps its rank in step."""


def hold_out(data: TrainingData, count: int) -> tuple[list[range], list[range]]:
    """The chains to train on, and the chains held out for validation: `count`, or some more, because all
    chains of a question are on the same side.

    The choice depends on the questions alone: runs on the same data are validated on the same chains.
    Raises InputError if too few chains would remain, or an ability would be missing on either side.
    """
    if not count:
        return list(data.chains), []

    def rank(chain: range) -> str:
        return hashlib.sha256(data.question(chain[0]).encode()).hexdigest()

    ranked = sorted(data.chains, key=rank)
    while count < len(ranked) and rank(ranked[count - 1]) == rank(ranked[count]):
        count += 1
    if count >= len(data.chains):
        raise InputError(
            f"train.validation_chains: {count:,} of {len(data.chains):,} chains leave none to train on"
        )
    chosen = {chain[0] for chain in ranked[:count]}
    train = [chain for chain in data.chains if chain[0] not in chosen]
    held_out = [chain for chain in data.chains if chain[0] in chosen]
    ability_E = data.ability_E.tolist()
    for part, side in ((train, "left to train on"), (held_out, "held out")):
        present = {ability_E[index] for chain in part for index in chain}
        for ability in sorted(set(ability_E) - present):
            raise InputError(
                f"train.validation_chains: no example of ability {data.abilities[ability]!r} is {side}; "
                f"hold out {'fewer' if part is train else 'more'} than {count:,} chains"
            )
    return train, held_out


def steps_per_epoch(chains: int, chains_per_batch: int) -> int:
    """Global batches in one epoch; the last one has from half as many chains to half as many more."""
    whole, rest = divmod(chains, chains_per_batch)
    return max(1, whole + (2 * rest >= chains_per_batch))


def epoch_batches(chains: int, chains_per_batch: int, *, seed: int, epoch: int) -> list[list[int]]:
    """The chains of each global batch of an epoch; every chain occurs once.

    chains: number of chains
    """
    import numpy as np

    order = np.random.default_rng((seed, epoch)).permutation(chains).tolist()
    last = chains_per_batch * (steps_per_epoch(chains, chains_per_batch) - 1)
    starts = range(0, last, chains_per_batch)
    return [*(order[first : first + chains_per_batch] for first in starts), order[last:]]


def cut_micro_batches(
    lengths: Sequence[int], micro_batch_tokens: int, ranks: int, *, padded: bool
) -> list[list[MicroBatch]]:
    """Cut a global batch; every rank gets the same number of micro-batches, much alike in size.

    lengths:            tokens of each unit, each at least 1
    micro_batch_tokens: upper bound of a micro-batch's tokens, padding included; a longer unit is alone
    padded:             whether units stand below each other, filled up to the longest, or one after
                        the other
    Returns one list per rank, all equally long. Units of similar length go together; ranks that
    work at the same time have neighbours in length, since ZeRO makes them wait for each other.
    """
    longest_first = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))

    def groups(limit: int) -> list[list[int]]:
        return _groups(longest_first, lengths, limit, padded)

    turns = -(-len(groups(micro_batch_tokens)) // ranks)
    # The same number of turns with a smaller limit shares the work more evenly.
    low, high = 0, micro_batch_tokens
    while high - low > 1:
        middle = (low + high) // 2
        if len(groups(middle)) <= turns * ranks:
            high = middle
        else:
            low = middle
    batches = [MicroBatch(tuple(group), True) for group in groups(high)]
    stand_in = MicroBatch((longest_first[-1],), False)
    batches += [stand_in] * (turns * ranks - len(batches))
    return [batches[rank::ranks] for rank in range(ranks)]


def _groups(
    order: Sequence[int], lengths: Sequence[int], limit: int, padded: bool
) -> list[list[int]]:
    """Consecutive runs of `order` (longest first) whose size stays within the limit.

    Where rows are padded, lengths in a run are so much alike that a row is at most a tenth padding.
    """
    groups: list[list[int]] = []
    size = 0
    for index in order:
        longest = lengths[groups[-1][0]] if groups else 0
        more = longest if padded else lengths[index]
        unlike = padded and 10 * lengths[index] < 9 * longest
        if not groups or size + more > limit or unlike:
            groups.append([])
            size, more = 0, lengths[index]
        groups[-1].append(index)
        size += more
    return groups
