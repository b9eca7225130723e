"""Attention over packed rows: every token sees exactly what it would see in its own example.

On CPU a row is cut into blocks (see `steper_ray.training.packing`). The queries of a block meet only
the keys of the prefix that its example runs through and its own, so a masked part costs nothing but
the triangle inside the block. On GPU FlexAttention skips the masked tiles of one block mask.

A window that slides is one on positions: a key is seen where it lies less than so many positions of its
example before the query. Each layer has its own, or none.

All is reached through transformers' attention interface, so any model that takes its attention from
there is trained packed without a change to its code.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

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
    """Per block, the segments its queries see, in order from position 0; the block's own come last."""
    masks: dict[tuple[int, int, int | None], Tensor] = field(default_factory=dict)
    """Masks by (queries, keys, window), made where they are first needed; all layers share them."""

    def mask(self, queries: int, keys: int, window: int | None) -> Tensor:
        """See `lower_right_causal`."""
        shape = (queries, keys, window)
        if shape not in self.masks:
            self.masks[shape] = lower_right_causal(*shape)
        return self.masks[shape]


def split_row(row: PackedRow) -> Split:
    """Cut a row so that every block sees whole segments."""
    tokens = len(row.ids_T)
    # Where the reach of the tokens changes.
    turns = np.flatnonzero(np.diff(row.end_T)) + 1
    cuts = np.union1d(row.start_B[row.start_B < tokens], turns)
    segments = np.diff(cuts, append=tokens)
    ends = row.end_T[cuts]
    split = Split([], segments.tolist(), [])
    for start, end in zip(row.start_B, [*row.start_B[1:], tokens], strict=True):
        if start == end:  # an example that adds no token of its own
            continue
        split.blocks.append(int(end - start))
        split.paths.append(np.flatnonzero((cuts < end) & (ends > start)).tolist())
    return split


def lower_right_causal(queries: int, keys: int, window: int | None = None) -> Tensor:
    """(queries, keys) fp32, 0 where seen and −∞ elsewhere.

    The last query sees every key, the one before it all but the last, …; of those only the last `window`.
    """
    hidden = torch.full((queries, keys), float("-inf"))
    mask = hidden.triu(keys - queries + 1)
    return mask if window is None else mask + hidden.tril(keys - queries - window)


@dataclass(frozen=True, slots=True)
class Scores:
    """What a layer does to the products of queries and keys before they become weights."""

    scale: float
    window: int | None = None
    """A query sees the keys less than so many positions before it, itself included."""
    softcap: float | None = None
    """c, where the layer takes c·tanh(score / c) (Gemma 2)."""
    sink_N: Tensor | None = None
    """(heads,) a score of its own for each head, which takes weight and gives no value (gpt-oss)."""


def _on_cpu(query: Tensor, key: Tensor, value: Tensor, split: Split, scores: Scores) -> Tensor:
    """query, key, value and result: (1, heads, tokens, head size)."""
    keys, values = key.split(split.segments, dim=2), value.split(split.segments, dim=2)
    outputs = []
    for block_query, path in zip(query.split(split.blocks, dim=2), split.paths, strict=True):
        queries = block_query.shape[2]
        block_key, block_value = (
            torch.cat([parts[segment] for segment in path], dim=2) for parts in (keys, values)
        )
        window = scores.window
        if window is not None:
            if block_key.shape[2] <= window:
                window = None
            else:  # what no query of the block sees
                block_key, block_value = (
                    part[:, :, -(queries + window - 1) :] for part in (block_key, block_value)
                )
        plain = window is None and block_key.shape[2] == queries
        mask = None if plain else split.mask(queries, block_key.shape[2], window).to(query.dtype)
        if scores.softcap is not None or scores.sink_N is not None:
            if mask is None:
                mask = split.mask(queries, queries, None).to(query.dtype)
            outputs.append(_by_hand(block_query, block_key, block_value, mask, scores))
            continue
        outputs.append(
            scaled_dot_product_attention(
                block_query,
                block_key,
                block_value,
                attn_mask=mask,
                is_causal=plain,
                scale=scores.scale,
            )
        )
    return torch.cat(outputs, dim=2)


def _by_hand(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scores: Scores) -> Tensor:
    """Attention with what torch's own does not have; the weights are computed in fp32."""
    products = query @ key.transpose(2, 3) * scores.scale
    if scores.softcap is not None:
        products = torch.tanh(products / scores.softcap) * scores.softcap
    products = (products + mask).float()
    if scores.sink_N is None:
        return products.softmax(-1).to(value.dtype) @ value
    sink = scores.sink_N.float().view(1, -1, 1, 1).expand(*products.shape[:3], 1)
    weights = torch.cat([products, sink], dim=-1).softmax(-1)[..., :-1]
    return weights.to(value.dtype) @ value


class Tiles:
    """FlexAttention's block masks of one row, by window, made where they are first needed."""

    def __init__(self, row: PackedRow, device: torch.device) -> None:
        """row: its length is a multiple of `FLEX_TILE`"""
        self.row, self.device = row, device
        self._masks: dict[int | None, Any] = {}

    def mask(self, window: int | None) -> Any:
        """See `tile_mask`."""
        if window not in self._masks:
            self._masks[window] = tile_mask(self.row, self.device, window)
        return self._masks[window]


def tile_mask(row: PackedRow, device: torch.device, window: int | None = None) -> Any:
    """FlexAttention's block mask of a row, whose length is a multiple of `FLEX_TILE`.

    Made of tiles from the start, without a tensor of tokens × tokens.
    """
    from torch.nn.attention.flex_attention import BlockMask

    tokens = len(row.ids_T)
    end_T = torch.from_numpy(row.end_T).to(device)
    position_T = torch.from_numpy(row.position_T).to(device)

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (query < end_T[key])

    def in_window(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert window is not None
        return visible(batch, head, query, key) & (position_T[query] - position_T[key] < window)

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
    some = (key_tile == query_tile) | (earlier & (ends.max(1) > query_tile))
    if window is not None:
        places = row.position_T.reshape(-1, FLEX_TILE)
        first, last = places.min(1), places.max(1)
        whole &= last[:, None] - first < window
        some &= first[:, None] - last < window
    return BlockMask.from_kv_blocks(
        *listed(some & ~whole),
        *listed(whole),
        BLOCK_SIZE=FLEX_TILE,
        mask_mod=visible if window is None else in_window,
        seq_lengths=(tokens, tokens),
    )


@cache
def _compiled_flex_attention() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@cache
def _capped(softcap: float) -> Any:
    """The same function for the same cap: FlexAttention compiles anew for each."""

    def cap(score: Tensor, *_place: Tensor) -> Tensor:
        return torch.tanh(score / softcap) * softcap

    return cap


def _on_gpu(query: Tensor, key: Tensor, value: Tensor, tiles: Tiles, scores: Scores) -> Tensor:
    """query, key, value and result: (1, heads or key-value heads, tokens, head size)."""
    output: Tensor
    flex_attention = _compiled_flex_attention()
    options: dict[str, Any] = {
        "block_mask": tiles.mask(scores.window),
        "scale": scores.scale,
        "enable_gqa": True,
    }
    if scores.softcap is not None:
        options["score_mod"] = _capped(scores.softcap)
    if scores.sink_N is None:
        output = flex_attention(query, key, value, **options)
        return output
    from torch.nn.attention.flex_attention import AuxRequest

    options["return_aux"] = AuxRequest(lse=True)
    output, beside = flex_attention(query, key, value, **options)
    # The share of all weight that the keys have and the sink has not.
    share = torch.sigmoid(beside.lse.float() - scores.sink_N.float().view(1, -1, 1))
    return output * share.to(output.dtype)[..., None]


class CannotPackError(ValueError):
    """Packed rows do not fit a model's attention; says why, in a few words."""


KNOWN: Final = {"sliding_window", "position_ids"}
"""Arguments of transformers' attention that change nothing here: positions and masks are the row's."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    packed: Split | Tiles | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **other: Any,
) -> tuple[Tensor, None]:
    """Attention over packed rows, as transformers calls it in each layer.

    query: (1, heads, tokens, head size); key, value: (1, key-value heads, tokens, head size)
    attention_mask: what `packed_mask` gave for this kind of layer
    packed:         passed to the model as `packed=…`
    Returns (1, tokens, heads, head size).

    Raises CannotPackError where a model's attention depends on anything else.
    """
    if packed is None:
        raise CannotPackError("its layers pass no arguments on to their attention")
    if attention_mask is not None and attention_mask.ndim:
        raise CannotPackError("it makes a mask of its own")
    unknown = [name for name, v in other.items() if isinstance(v, Tensor) and name not in KNOWN]
    if unknown:
        raise CannotPackError(f"its attention depends on {', '.join(unknown)}")
    if other.get("is_causal") is False:
        raise CannotPackError("its attention is not causal")
    if dropout and module.training:
        raise CannotPackError("its attention has dropout")
    scores = Scores(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=None if attention_mask is None else int(attention_mask),
        softcap=softcap,
        sink_N=s_aux,
    )
    if isinstance(packed, Split):
        groups = query.shape[1] // key.shape[1]
        if groups > 1:
            key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        output = _on_cpu(query, key, value, packed, scores)
    else:
        output = _on_gpu(query, key, value, packed, scores)
    return output.transpose(1, 2).contiguous(), None


def packed_mask(*, local_size: int | None = None, **_other: Any) -> Tensor | None:
    """What a model hands to each layer of a kind as its mask: the window of those layers.

    transformers calls it once for each kind of layer, and in place of a mask it may be any tensor.

    local_size: the window in tokens; None for layers that see everything
    Returns () int64 on the CPU, so that reading it waits for no GPU; None where there is no window.
    """
    return None if local_size is None else torch.tensor(local_size)


AttentionInterface.register(ATTENTION, packed_attention)
AttentionMaskInterface.register(ATTENTION, packed_mask)


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
    if others := layers - {"full_attention", "sliding_attention"}:
        return f"it has {', '.join(sorted(others))} layers"
    if getattr(text, "attention_chunk_size", None):
        return "its attention is cut into chunks"
    if _rope_types(getattr(text, "rope_parameters", None)) & {"dynamic", "longrope"}:
        return "its position encoding depends on the length of the row"
    if getattr(text, "attention_dropout", 0.0):
        return "its attention has dropout"
    return None


def _rope_types(parameters: Any) -> set[str]:
    """Kinds of position encoding, whether all layers have one or each kind of layer its own."""
    if not isinstance(parameters, dict):
        return set()
    kinds = {parameters.get("rope_type", "default")}
    return kinds.union(*(_rope_types(value) for value in parameters.values()))
