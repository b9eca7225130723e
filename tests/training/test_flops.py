import numpy as np
import pytest

from steper_ray.training.flops import model_flops, peak_flops
from steper_ray.training.packing import pack_row, prefix_tree, visible_pairs


def test_model_flops_are_what_torch_counts():
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaConfig, LlamaForCausalLM

    tokens, supervised = 96, 10
    config = LlamaConfig(
        vocab_size=500,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=False,
    )
    config._attn_implementation = "eager"  # computes every pair
    model = LlamaForCausalLM(config)
    tables = {model.model.embed_tokens.weight, model.lm_head.weight}
    with FlopCounterMode(display=False) as counter:
        hidden = model.model(torch.zeros(1, tokens, dtype=torch.long)).last_hidden_state
        model.lm_head(hidden[:, :supervised])
    found = model_flops(
        config,
        weights=sum(p.numel() for p in model.parameters() if p not in tables and p.ndim == 2),
        tokens=tokens,
        pairs=tokens * tokens,
        supervised=supervised,
    )
    assert found == pytest.approx(3 * counter.get_total_flops(), rel=0.01)


def test_pairs_are_those_of_the_dense_mask():
    rng = np.random.default_rng(0)
    trunk = rng.integers(0, 50, 30)
    examples = [
        np.concatenate([trunk[:end], rng.integers(50, 99, 7)]).astype(np.int32)
        for end in (10, 20, 30)
    ]
    tree = prefix_tree(examples)
    row = pack_row([tree], [examples], [[3, 3, 3]])
    assert visible_pairs(tree) == row.visible().sum()


def test_the_peak_is_found_by_a_part_of_the_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("Somebody's GPU") is None
