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


VARIANTS = [{}, {"window": 9}, {"window": 200}, {"softcap": 0.7}, {"window": 9, "sinks": True}]


def attend(row, packed, groups, size=16, device="cpu", dtype=None, **variant):
    import torch

    from steper_ray.training.attention import packed_attention, packed_mask

    torch.manual_seed(0)
    tokens, window = len(row.ids_T), variant.get("window")
    softcap = variant.get("softcap")
    heads = (4, 4 // groups, 4 // groups)
    query, key, value = (
        torch.randn(1, count, tokens, size).to(device, dtype).detach() for count in heads
    )
    sinks = torch.tensor([-1.0, 0.0, 1.0, 2.0]).to(device, dtype) if "sinks" in variant else None
    leaves = [query, key, value, *([] if sinks is None else [sinks])]
    for tensor in leaves:
        tensor.requires_grad = torch.is_grad_enabled()
    if packed is None:
        output = dense_attention(row.visible(window), query, key, value, softcap, sinks)
    else:
        output, _ = packed_attention(
            torch.nn.Identity(),
            query,
            key,
            value,
            packed_mask(local_size=window),
            scaling=0.3,
            packed=packed,
            softcap=softcap,
            s_aux=sinks,
        )
    if output.requires_grad:
        output.float().square().sum().backward()
    return output, *(leaf.grad for leaf in leaves)


def dense_attention(visible, query, key, value, softcap, sinks):
    """One softmax over all keys of the row, and the sink; in fp64."""
    import torch

    query, key, value = query.double(), key.double(), value.double()
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * 0.3
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    shares = scores.masked_fill(~torch.from_numpy(visible), float("-inf")).exp()
    total = shares.sum(-1, keepdim=True)
    if sinks is not None:
        total = total + sinks.exp().view(1, -1, 1, 1)
    return (shares / total @ value).transpose(1, 2).float()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("groups", [1, 2])
def test_the_cut_row_equals_one_dense_mask(row, groups, variant):
    import torch

    from steper_ray.training.attention import split_row

    got = attend(row, split_row(row), groups, **variant)
    expected = attend(row, None, groups, **variant)
    for ours, reference in zip(got, expected, strict=True):
        torch.testing.assert_close(ours, reference, atol=2e-5, rtol=1e-5)


TREES = st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=4), min_size=1, max_size=3)


def row_of(trees):
    """Examples of each tree that begin with so many tokens of one trunk; whole tiles."""
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
    return pack_row([prefix_tree(tree) for tree in examples], examples, targets).padded_to(128, 0)


@given(trees=TREES, window=st.integers(1, 500))
def test_tiles_and_window_are_those_of_the_dense_mask(trees, window):
    import torch

    from steper_ray.training.attention import tile_mask

    row = row_of(trees)
    mask = tile_mask(row, torch.device("cpu"), window)
    seen = torch.from_numpy(row.visible(window))
    token = torch.arange(len(row.ids_T))
    inside = mask.mask_mod(None, None, token[:, None], token[None])
    assert torch.equal(inside, seen)
    found = torch.zeros_like(seen)
    for counts, places, whole in (
        (mask.kv_num_blocks, mask.kv_indices, False),
        (mask.full_kv_num_blocks, mask.full_kv_indices, True),
    ):
        for line in range(len(row.ids_T) // 128):
            for column in places[0, 0, line, : counts[0, 0, line]]:
                tile = slice(line * 128, line * 128 + 128), slice(column * 128, column * 128 + 128)
                found[tile] = True if whole else inside[tile]
    assert torch.equal(found, seen)


@given(trees=TREES)
def test_the_tiles_are_those_of_the_dense_mask(trees):
    import torch

    from steper_ray.training.attention import tile_mask

    row = row_of(trees)
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


@pytest.mark.parametrize("variant", VARIANTS)
def test_flex_attention_equals_one_dense_mask(row, monkeypatch, variant):
    # Compiled it runs on GPUs; here its own reference implementation reads the same mask.
    import torch
    from torch.nn.attention.flex_attention import flex_attention

    from steper_ray.training.attention import Tiles

    monkeypatch.setattr(
        "steper_ray.training.attention._compiled_flex_attention", lambda: flex_attention
    )
    row = row.padded_to(128, 0)
    with torch.no_grad():  # no backward pass without a GPU
        got = attend(row, Tiles(row, torch.device("cpu")), 2, **variant)
        expected = attend(row, None, 2, **variant)
        torch.testing.assert_close(got[0], expected[0], atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("groups", "size"), [(1, 64), (4, 128)])
@pytest.mark.parametrize(("dtype", "most"), [("float32", 1e-5), ("bfloat16", 1e-2)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_kernels_of_flex_attention_equal_one_dense_mask(
    row, groups, size, dtype, most, variant
):
    import torch

    from steper_ray.training.attention import Tiles

    row = row.padded_to(128, 0)
    packed = Tiles(row, torch.device("cuda"))
    got = attend(row, packed, groups, size, "cuda", getattr(torch, dtype), **variant)
    expected = attend(row, None, groups, size, **variant)
    for ours, reference in zip(got, expected, strict=True):
        away = (ours.cpu().float() - reference).norm() / reference.norm()
        assert away.item() <= most


@pytest.mark.parametrize(
    ("config", "values", "said"),
    [
        ("Qwen3Config", {}, None),
        ("LlamaConfig", {}, None),
        ("Qwen2Config", {}, None),
        ("MistralConfig", {}, None),
        ("Gemma2Config", {}, None),
        ("MixtralConfig", {}, None),
        ("Llama4TextConfig", {}, "it has chunked_attention layers"),
        ("MambaConfig", {}, "its attention cannot be replaced"),
        (
            "LlamaConfig",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            "its position encoding depends on the length of the row",
        ),
        (
            "Gemma3TextConfig",
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
                }
            },
            "its position encoding depends on the length of the row",
        ),
        ("SeedOssConfig", {}, "its attention has dropout"),
    ],
)
def test_which_models_can_be_packed(config, values, said):
    import transformers

    from steper_ray.training.attention import packing_obstacle

    assert packing_obstacle(getattr(transformers, config)(**values)) == said
