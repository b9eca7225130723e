"""Packed attention against one dense mask, on both of its engines; and which models it fits."""

import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from transformers import (
    Gemma2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Qwen2Config,
    Qwen3Config,
)

from steper_ray.training.attention import (
    packed_attention,
    packing_obstacle,
    split_row,
    tile_mask,
)
from steper_ray.training.packing import pack_row, prefix_tree


@pytest.fixture
def row():
    rng = np.random.default_rng(0)
    trees = []
    for steps in (3, 1, 4):
        trunk = rng.integers(0, 9, 20 * steps).astype(np.int32)
        trees.append(
            [
                np.concatenate([trunk[: 20 * s], rng.integers(10, 90, 7 + s).astype(np.int32)])
                for s in range(1, steps + 1)
            ]
        )
    trees[0].append(trees[0][1][:-2])  # adds no token of its own
    return pack_row([prefix_tree(t) for t in trees], trees, [[2] * len(t) for t in trees])


def attend(row, packed, groups):
    torch.manual_seed(0)
    tokens = len(row.ids_T)
    heads = (4, 4 // groups, 4 // groups)
    query, key, value = (torch.randn(1, count, tokens, 16) for count in heads)
    for tensor in (query, key, value):
        tensor.requires_grad = torch.is_grad_enabled()
    if packed is None:
        output = torch.nn.functional.scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, 1),
            value.repeat_interleave(groups, 1),
            attn_mask=torch.from_numpy(row.visible()),
            scale=0.3,
        ).transpose(1, 2)
    else:
        output, _ = packed_attention(
            torch.nn.Identity(), query, key, value, None, scaling=0.3, packed=packed
        )
    if output.requires_grad:
        output.square().sum().backward()
    return output, query.grad, key.grad, value.grad


@pytest.mark.parametrize("groups", [1, 2])
def test_the_cut_row_equals_one_dense_mask(row, groups):
    got, expected = attend(row, split_row(row), groups), attend(row, None, groups)
    for ours, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


def test_flex_attention_equals_one_dense_mask(row, monkeypatch):
    # Compiled it runs on GPUs; here its own reference implementation reads the same mask.
    monkeypatch.setattr(
        "steper_ray.training.attention._compiled_flex_attention", lambda: flex_attention
    )
    row = row.padded_to(128, 0)
    with torch.no_grad():  # no backward pass without a GPU
        got = attend(row, tile_mask(row, torch.device("cpu")), 2)
        torch.testing.assert_close(got[0], attend(row, None, 2)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (Qwen3Config(), None),
        (LlamaConfig(), None),
        (Qwen2Config(), None),
        (MistralConfig(), "its attention slides over a window"),
        (Gemma2Config(), "it has sliding_attention layers"),
        (MixtralConfig(), "its experts share a loss over all tokens of a row"),
        (MambaConfig(), "its attention cannot be replaced"),
        (
            LlamaConfig(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
            "its position encoding depends on the length of the row",
        ),
    ],
)
def test_which_models_can_be_packed(config, said):
    assert packing_obstacle(config) == said
