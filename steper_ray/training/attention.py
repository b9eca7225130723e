"""Attention over packed rows: every token sees exactly what it would see in its own example.

On CPU a row is cut into blocks (see `steper_ray.training.packing`). The queries of a block meet only
the keys of the prefix that its example runs through and its own, so a masked part costs nothing but
the triangle inside the block. On GPU FlexAttention skips the masked tiles of one block mask.

Both are reached through transformers' attention interface, so any model that takes its attention from
there is trained packed without a change to its code.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from steper_ray.training.packing import PackedRow

ATTENTION: Final = "steper_packed"
"""Name of this attention for transformers: `attn_implementation=…`."""


FLEX_TILE: Final = 128
"""Tokens of FlexAttention's tiles; rows are padded to a multiple."""


@dataclass(frozen=True, slots=True)
class Split:
    """Cut of one row into blocks and segments, for the CPU; sizes are tokens."""

    blocks: list[int]
    """Sizes of the blocks, in order."""
    segments: list[int]
    """Sizes of the pieces that keys and values are cut into."""
    paths: list[list[int]]
    """Per block, the segments its queries see, in order; the block's own come last."""
    masks: list[Tensor | None]
    """Per block (queries, keys) fp32, 0 where seen and −∞ elsewhere; None for plain causal attention."""


def split_row(row: PackedRow) -> Split:
    """Cut a row so that every block sees whole segments."""
    tokens = len(row.ids_T)
    # Where the reach of the tokens changes.
    turns = np.flatnonzero(np.diff(row.end_T)) + 1
    cuts = np.union1d(row.start_B[row.start_B < tokens], turns)
    segments = np.diff(cuts, append=tokens)
    ends = row.end_T[cuts]
    split = Split([], segments.tolist(), [], [])
    for start, end in zip(row.start_B, [*row.start_B[1:], tokens], strict=True):
        if start == end:  # an example that adds no token of its own
            continue
        path = np.flatnonzero((cuts < end) & (ends > start))
        queries, keys = int(end - start), int(segments[path].sum())
        split.blocks.append(queries)
        split.paths.append(path.tolist())
        split.masks.append(None if keys == queries else lower_right_causal(queries, keys))
    return split


def lower_right_causal(queries: int, keys: int) -> Tensor:
    """(queries, keys): the last query sees every key, the one before it all but the last, …"""
    hidden = torch.full((queries, keys), float("-inf"))
    return hidden.triu(keys - queries + 1)


def _on_cpu(query: Tensor, key: Tensor, value: Tensor, split: Split, scale: float) -> Tensor:
    """query, key, value and result: (1, heads, tokens, head size)."""
    keys, values = key.split(split.segments, dim=2), value.split(split.segments, dim=2)
    outputs = []
    for block_query, path, mask in zip(
        query.split(split.blocks, dim=2), split.paths, split.masks, strict=True
    ):
        outputs.append(
            scaled_dot_product_attention(
                block_query,
                torch.cat([keys[segment] for segment in path], dim=2),
                torch.cat([values[segment] for segment in path], dim=2),
                attn_mask=mask if mask is None else mask.to(query.dtype),
                is_causal=mask is None,
                scale=scale,
            )
        )
    return torch.cat(outputs, dim=2)


def tile_mask(row: PackedRow, device: torch.device) -> Any:
    """FlexAttention's block mask of a row, whose length is a multiple of `FLEX_TILE`.

    Made of tiles from the start, without a tensor of tokens × tokens.
    """
    from torch.nn.attention.flex_attention import BlockMask

    tokens = len(row.ids_T)
    end_T = torch.from_numpy(row.end_T).to(device)

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < end_T[key])

    def listed(tiles: Any) -> tuple[Tensor, Tensor]:
        """For each tile of queries how many tiles of keys, and which; what follows those is not read."""
        order = np.argsort(~tiles, axis=1, kind="stable")
        counts, places = (
            torch.from_numpy(array.astype(np.int32))[None, None].to(device)
            for array in (tiles.sum(1), order)
        )
        return counts, places

    start = np.arange(0, tokens, FLEX_TILE)
    ends = row.end_T.reshape(-1, FLEX_TILE)
    query_tile, key_tile = start[:, None], start[None]
    earlier = key_tile < query_tile
    whole = earlier & (ends.min(1) >= query_tile + FLEX_TILE)
    partly = (key_tile == query_tile) | (earlier & (ends.max(1) > query_tile) & ~whole)
    return BlockMask.from_kv_blocks(
        *listed(partly),
        *listed(whole),
        BLOCK_SIZE=FLEX_TILE,
        mask_mod=visible,
        seq_lengths=(tokens, tokens),
    )


@cache
def _compiled_flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def packed_attention(
    _module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    packed: Any,
    dropout: float = 0.0,
    **_other: Any,
) -> tuple[Tensor, None]:
    """Attention over packed rows, as transformers calls it in each layer.

    query: (1, heads, tokens, head size); key, value: (1, key-value heads, tokens, head size)
    packed: a `Split` or FlexAttention's block mask, passed to the model as `packed=…`
    Returns (1, tokens, heads, head size).
    """
    assert attention_mask is None, "packed rows carry their own mask"
    assert not dropout, "packed rows are trained without attention dropout"
    if isinstance(packed, Split):
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        output = _on_cpu(query, key, value, packed, scaling)
    else:
        output = _compiled_flex_attention()(
            query, key, value, block_mask=packed, scale=scaling, enable_gqa=True
        )
    return output.transpose(1, 2).contiguous(), None


AttentionInterface.register(ATTENTION, packed_attention)


def packing_obstacle(config: Any) -> str | None:
    """Why a model cannot be trained on packed rows, in a few words; None if it can.

    Packing needs a model whose every token depends on its position and on the tokens it may see, and on
    nothing else.

    config: the model's transformers configuration
    """
    from transformers import AutoModelForCausalLM

    if "AutoModelForCausalLM" in (getattr(config, "auto_map", None) or {}):
        return "it runs code of its own"
    text = config.get_text_config()
    model_class: Any = AutoModelForCausalLM._model_mapping.get(type(text), None)
    if model_class is None or not model_class._supports_attention_backend:
        return "its attention cannot be replaced"
    if model_class._is_stateful:
        return "it carries a state from token to token"
    layers = set(getattr(text, "layer_types", None) or ["full_attention"])
    if layers != {"full_attention"}:
        return f"it has {', '.join(sorted(layers - {'full_attention'}))} layers"
    if getattr(text, "sliding_window", None):
        return "its attention slides over a window"
    ropes = getattr(text, "rope_parameters", None) or {}
    kinds = {ropes.get("rope_type", "default")} if isinstance(ropes, dict) else set()
    if kinds & {"dynamic", "longrope"}:
        return "its position encoding depends on the length of the row"
    if getattr(text, "router_aux_loss_coef", None):
        return "its experts share a loss over all tokens of a row"
    if getattr(text, "attn_logit_softcapping", None):
        return "its attention caps its logits"
    if getattr(text, "attention_dropout", 0.0):
        return "its attention has dropout"
    return None
