"""Packed attention against one dense mask, on both of its engines; and which models it fits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


def attend(row, packed, groups, size=16, device="cpu", dtype=None):
    import torch

    from steper_ray.training.attention import packed_attention

    torch.manual_seed(0)
    tokens = len(row.ids_T)
    heads = (4, 4 // groups, 4 // groups)
    query, key, value = (
        torch.randn(1, count, tokens, size).to(device, dtype).detach() for count in heads
    )
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
        output.float().square().sum().backward()
    return output, query.grad, key.grad, value.grad


@pytest.mark.parametrize("groups", [1, 2])
def test_the_cut_row_equals_one_dense_mask(row, groups):
    import torch

    from steper_ray.training.attention import split_row

    got, expected = attend(row, split_row(row), groups), attend(row, None, groups)
    for ours, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=1e-5, rtol=1e-5)


@given(
    trees=st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=4), min_size=1, max_size=3)
)
def test_the_tiles_are_those_of_the_dense_mask(trees):
    import torch

    from steper_ray.training.attention import tile_mask

    rng = np.random.default_rng(0)
    trunk = rng.integers(0, 9, 400).astype(np.int32)
    examples = [
        [
            np.concatenate([trunk[:shared], rng.integers(9, 20, 60).astype(np.int32)])
            for shared in tree
        ]
        for tree in trees
    ]
    targets = [[2] * len(tree) for tree in examples]
    row = pack_row([prefix_tree(tree) for tree in examples], examples, targets).padded_to(128, 0)
    mask = tile_mask(row, torch.device("cpu"))
    seen = row.visible().reshape(len(row.ids_T) // 128, 128, -1, 128)
    some: Any = seen.any((1, 3))
    every: Any = seen.all((1, 3))
    found = {
        name: [
            sorted(places[:count].tolist())
            for count, places in zip(counts[0, 0], indices[0, 0], strict=True)
        ]
        for name, counts, indices in (
            ("partly", mask.kv_num_blocks, mask.kv_indices),
            ("whole", mask.full_kv_num_blocks, mask.full_kv_indices),
        )
    }
    assert found["partly"] == [np.flatnonzero(line).tolist() for line in some & ~every]
    assert found["whole"] == [np.flatnonzero(line).tolist() for line in every]


def test_flex_attention_equals_one_dense_mask(row, monkeypatch):
    # Compiled it runs on GPUs; here its own reference implementation reads the same mask.
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    from steper_ray.training.attention import tile_mask

    monkeypatch.setattr(
        "steper_ray.training.attention._compiled_flex_attention", lambda: flex_attention
    )
    row = row.padded_to(128, 0)
    with torch.no_grad():  # no backward pass without a GPU
        got = attend(row, tile_mask(row, torch.device("cpu")), 2)
        torch.testing.assert_close(got[0], attend(row, None, 2)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("groups", "size"), [(1, 64), (4, 128)])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_the_kernels_of_flex_attention_equal_one_dense_mask(row, groups, size, dtype, most):
    import torch

    from steper_ray.training.attention import tile_mask

    row = row.padded_to(128, 0)
    packed = tile_mask(row, torch.device("cuda"))
    got = attend(row, packed, groups, size, "cuda", getattr(torch, dtype))
    for ours, reference in zip(got, attend(row, None, groups, size), strict=True):
        away = (ours.cpu().float() - reference).norm() / reference.norm()
        assert away.item() <= most


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        ("Qwen3Config", {}, None),
        ("LlamaConfig", {}, None),
        ("Qwen2Config", {}, None),
        ("MistralConfig", {}, "its attention slides over a window"),
        ("Gemma2Config", {}, "it has sliding_attention layers"),
        ("MixtralConfig", {}, "its experts share a loss over all tokens of a row"),
        ("MambaConfig", {}, "its attention cannot be replaced"),
        (
            "LlamaConfig",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "its position encoding depends on the length of the row",
        ),
    ],
)
def test_which_models_can_be_packed(config, values, said):
    import transformers

    from steper_ray.training.attention import packing_obstacle

    assert packing_obstacle(getattr(transformers, config)(**values)) == said
