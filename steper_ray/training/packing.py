"""Shared-prefix packing: the examples of a chain as one sequence in which a common prefix stands once.

The step prompts of a chain form a prefix tree, because prompts only grow. In IRCoT the passages are
the trunk; step s is a branch that sees the trunk up to its own passages, then the question and the
reasoning. The tree is built on tokens, each example having been tokenized whole, so it holds for any
framework and no merge of a tokenizer at a join can differ.

Layout: the examples stand in the order of their tokens, so those that begin alike stand together, and
each adds one *block*, its tokens after the prefix that it shares with the one before it. A token has the
position it has in its example, and sees of every block exactly the part that its own example runs
through. So hidden states, losses and gradients equal those of separate examples; only the order of
additions differs. And the blocks that run through a token follow it without a gap, so one number a token,
where it stops being seen, is the whole mask.

Cost with 5 steps of 400 passage tokens each: 2,600 tokens in place of 6,600.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, starmap
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Block:
    """The tokens that one example adds to a row: those from `start` on."""

    start: int
    """Tokens that it shares with the example before it."""
    runs: tuple[tuple[int, int], ...]
    """(block, tokens): the example runs through the first so many tokens of those blocks, in this
    order, its own block last. The counts sum to the example's length."""


def depth_first(examples: Sequence["NDArray[np.int32]"]) -> list[int]:
    """The order to lay examples out in, as indices: by their tokens."""
    return sorted(range(len(examples)), key=lambda index: examples[index].astype(">i4").tobytes())


def prefix_tree(examples: Sequence["NDArray[np.int32]"]) -> list[Block]:
    """One block for each example, in order; a block's `runs` name blocks before it.

    Right in any order; only in that of `depth_first` does every common prefix stand once.

    examples: token ids, each (tokens,), prompt and target
    """
    return tree_of(shared_prefixes(examples), [len(ids) for ids in examples])


def shared_prefixes(examples: Sequence["NDArray[np.int32]"]) -> list[int]:
    """How many tokens each example begins with in common with the one before it; 0 for the first."""
    return [0, *starmap(common_prefix, pairwise(examples))][: len(examples)]


def tree_of(shared_E: Sequence[int], length_E: Sequence[int]) -> list[Block]:
    """The blocks of examples of so many tokens each, from `shared_prefixes`."""
    blocks: list[Block] = []
    for number, (shared, length) in enumerate(zip(shared_E, length_E, strict=True)):
        runs: list[tuple[int, int]] = []
        remaining = shared
        for block, tokens in blocks[-1].runs if shared else ():
            if not remaining:
                break
            runs.append((block, min(tokens, remaining)))
            remaining -= runs[-1][1]
        runs.append((number, length - shared))
        blocks.append(Block(shared, tuple(runs)))
    return blocks


def common_prefix(first: "NDArray[np.int32]", second: "NDArray[np.int32]") -> int:
    """How many tokens two examples begin with in common."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(first[:length] != second[:length])
    return int(differ[0]) if len(differ) else length


def packed_length(blocks: Sequence[Block]) -> int:
    """Tokens of a tree's layout."""
    return sum(block.runs[-1][1] for block in blocks)


def visible_pairs(blocks: Sequence[Block]) -> int:
    """(token, visible token) pairs of a tree: the cost of its attention."""
    own = [block.runs[-1][1] for block in blocks]
    return sum(
        tokens * block.start + tokens * (tokens + 1) // 2
        for block, tokens in zip(blocks, own, strict=True)
    )


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Several trees one after the other in one row; no tree sees another.

    T tokens, B blocks (one an example), P supervised tokens.
    """

    ids_T: "NDArray[np.int64]"
    position_T: "NDArray[np.int64]"
    end_T: "NDArray[np.int32]"
    """Token k is seen by the tokens q of k ≤ q < end_T[k]."""
    start_B: "NDArray[np.int64]"
    """Where each block begins in the row."""
    at_P: "NDArray[np.int64]"
    """Where each supervised token is predicted: the index in the row of the token before it."""
    target_P: "NDArray[np.int64]"
    example_P: "NDArray[np.int64]"
    """The example, equal to the block, it belongs to."""

    def padded_to(self, multiple: int, pad: int) -> "PackedRow":
        """The row filled up with one more block, which sees only itself and is not supervised.

        pad: any token id
        """
        before = len(self.ids_T)
        tokens = -before % multiple
        return replace(
            self,
            ids_T=np.concatenate([self.ids_T, np.full(tokens, pad)]),
            position_T=np.concatenate([self.position_T, np.arange(tokens)]),
            end_T=np.concatenate([self.end_T, np.full(tokens, before + tokens, dtype=np.int32)]),
            start_B=np.append(self.start_B, before),
        )

    def visible(self, window: int | None = None) -> "NDArray[np.bool_]":
        """(T, T) dense mask, true where row i may see column j; for reference and small rows.

        window: of so many positions, the token's own included
        """
        index = np.arange(len(self.ids_T))
        seen: NDArray[np.bool_] = (index <= index[:, None]) & (index[:, None] < self.end_T)
        if window is not None:
            seen &= self.position_T[:, None] - self.position_T < window
        return seen


def pack_row(
    trees: Sequence[Sequence[Block]],
    examples: Sequence[Sequence["NDArray[np.int32]"]],
    targets: Sequence[Sequence["int | NDArray[np.int64]"]],
) -> PackedRow:
    """Lay trees out in one row.

    trees:    from `prefix_tree`
    examples: the examples of each tree
    targets:  how many of each example's last tokens are its target, or which of its tokens, by position
    """
    end_T = np.zeros(sum(packed_length(tree) for tree in trees), dtype=np.int32)
    ids, positions, at, target_ids, owner = [], [], [], [], []
    starts: list[int] = []
    end = 0
    for tree, sequences, chosen in zip(trees, examples, targets, strict=True):
        first = len(starts)
        for block, sequence, target in zip(tree, sequences, chosen, strict=True):
            number = len(starts)
            starts.append(end)
            end += len(sequence) - block.start
            ids.append(sequence[block.start :])
            positions.append(np.arange(block.start, len(sequence)))
            path = []
            for other, tokens in block.runs:
                begin = starts[first + other]
                path.append(begin + np.arange(tokens))
                end_T[begin : begin + tokens] = end
            length = len(sequence)
            chosen_P = np.arange(length - target, length) if isinstance(target, int) else target
            at.append(np.concatenate(path)[chosen_P - 1])
            target_ids.append(sequence[chosen_P])
            owner.append(np.full(len(chosen_P), number))
    return PackedRow(
        ids_T=np.concatenate(ids).astype(np.int64),
        position_T=np.concatenate(positions).astype(np.int64),
        end_T=end_T,
        start_B=np.array(starts),
        at_P=np.concatenate(at),
        target_P=np.concatenate(target_ids).astype(np.int64),
        example_P=np.concatenate(owner),
    )
