"""A micro-batch as tensors, in one of two layouts: chains packed in one row, or examples one a row."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steper_ray.training.attention import FLEX_TILE, Tiles, split_row
from steper_ray.training.packing import Block, pack_row
from steper_ray.training.tokenization import TokenExample


@dataclass(frozen=True, slots=True)
class Batch:
    """The input of `StudentLoss`: B rows, T tokens a row, P supervised tokens, E examples."""

    ids_BT: Tensor
    position_BT: Tensor | None
    """None: 0, 1, 2 … in every row."""
    packed: Any
    """For `steper_ray.training.attention`; None: plain causal attention inside each row."""
    at_P: Tensor
    """(P,) int64: where each supervised token is predicted, as an index into the B·T tokens."""
    target_P: Tensor
    example_P: Tensor
    """(P,) int64: the example each supervised token belongs to."""
    weight_P: Tensor
    """(P,) fp32: weight of each token's negative log-likelihood in the loss."""
    examples: int


def padded_batch(
    examples: Sequence[TokenExample], weights: Sequence[float], pad: int, device: torch.device
) -> Batch:
    """One example a row, filled up on the right.

    Under a causal mask no real token sees the filling, so nothing is masked and attention is fastest.

    weights: of each example's token-mean loss; pad: any token id
    """
    length = max(len(example.ids) for example in examples)
    ids_BT = np.full((len(examples), length), pad, dtype=np.int64)
    at = []
    for row, example in enumerate(examples):
        ids_BT[row, : len(example.ids)] = example.ids
        at.append(row * length + example.target_at - 1)
    target_ids = np.concatenate([example.ids[example.target_at] for example in examples])
    owner = np.repeat(np.arange(len(examples)), [example.target_tokens for example in examples])
    return Batch(
        ids_BT=torch.from_numpy(ids_BT).to(device),
        position_BT=None,
        packed=None,
        at_P=torch.from_numpy(np.concatenate(at)).to(device),
        target_P=torch.from_numpy(target_ids.astype(np.int64)).to(device),
        example_P=torch.from_numpy(owner).to(device),
        weight_P=_token_weights(examples, weights, owner).to(device),
        examples=len(examples),
    )


def packed_batch(
    chains: Sequence[Sequence[TokenExample]],
    trees: Sequence[Sequence[Block]],
    weights: Sequence[float],
    pad: int,
    device: torch.device,
) -> Batch:
    """All chains in one row, each with its common prefixes once.

    trees:   from `prefix_tree`, one for each chain
    weights: one for each example of each chain, in order; pad: any token id
    """
    sequences = [[example.ids for example in chain] for chain in chains]
    targets = [[example.target_at for example in chain] for chain in chains]
    row = pack_row(trees, sequences, targets)
    packed: Any
    if device.type == "cpu":
        packed = split_row(row)
    else:
        row = row.padded_to(FLEX_TILE, pad)
        packed = Tiles(row, device)
    examples = [example for chain in chains for example in chain]
    return Batch(
        ids_BT=torch.from_numpy(row.ids_T)[None].to(device),
        position_BT=torch.from_numpy(row.position_T)[None].to(device),
        packed=packed,
        at_P=torch.from_numpy(row.at_P).to(device),
        target_P=torch.from_numpy(row.target_P).to(device),
        example_P=torch.from_numpy(row.example_P).to(device),
        weight_P=_token_weights(examples, weights, row.example_P).to(device),
        examples=len(examples),
    )


def _token_weights(
    examples: Sequence[TokenExample], weights: Sequence[float], owner_P: Any
) -> Tensor:
    per_token = [
        weight / example.target_tokens for example, weight in zip(examples, weights, strict=True)
    ]
    return torch.tensor(per_token, dtype=torch.float32)[torch.from_numpy(owner_P)]
