"""Random models of many architectures, a few thousand weights each, and a few examples for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from steper_ray.training.tokenization import TokenExample

WORDS = 120


SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


EXPERTS = {
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}


MIXED = ["sliding_attention", "full_attention", "sliding_attention"]


def random_model(model_type: str, **values: Any) -> Any:
    """A model in fp32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, **(SIZES | values))
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    return model


def chain() -> list[TokenExample]:
    """Three steps of a chain: 40, 60 and 80 tokens of trunk, each with a branch of its own."""
    rng = np.random.default_rng(0)
    trunk = rng.integers(3, WORDS, 80)
    return [
        TokenExample(
            chain_id="c",
            step=step,
            ability=0,
            ids=np.concatenate([trunk[: 20 + 20 * step], rng.integers(3, WORDS, 9 + step)]).astype(
                np.int32
            ),
            target_tokens=4 + step,
        )
        for step in (1, 2, 3)
    ]
