"""The work of every contender of `train.py`: data and model; and its speed and memory, measured."""

import resource
import statistics
import time
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from train_settings import Setting

STEPS: Final = 5

PASSAGE_TOKENS: Final = 400

QUESTION_TOKENS: Final = 20

TARGET_TOKENS: Final = 30

VOCABULARY: Final = 32_000

LR: Final = 1e-4


def make_chain(rng: np.random.Generator) -> list[np.ndarray]:
    """One example a step, laid out as IRCoT does: passages so far, question, reasoning so far, target."""
    passages = rng.integers(3, VOCABULARY, STEPS * PASSAGE_TOKENS)
    question = rng.integers(3, VOCABULARY, QUESTION_TOKENS)
    reasoning = rng.integers(3, VOCABULARY, STEPS * TARGET_TOKENS)
    return [
        np.concatenate(
            [passages[: s * PASSAGE_TOKENS], question, reasoning[: s * TARGET_TOKENS]]
        ).astype(np.int32)
        for s in range(1, STEPS + 1)
    ]


def make_chains(setting: Setting) -> list[list[np.ndarray]]:
    """The data of every contender."""
    rng = np.random.default_rng(0)
    return [make_chain(rng) for _ in range(setting.chains)]


def split(chains: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """Every example on its own."""
    return [[ids] for chain in chains for ids in chain]


def make_model(setting: Setting) -> Any:
    """The model of every contender, the same random weights, built where it will be trained."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=setting.hidden,
        intermediate_size=setting.intermediate,
        num_hidden_layers=setting.layers,
        num_attention_heads=setting.heads,
        num_key_value_heads=setting.key_value_heads,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.device(setting.device):
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if setting.bf16 else torch.float32
        )


def now(setting: Setting) -> float:
    """Seconds on a clock, everything that was started being done."""
    if setting.gpu:
        import torch

        torch.cuda.synchronize()
    return time.monotonic()


def peak_memory(setting: Setting) -> int:
    """Most bytes that this process has held: as tensors on the GPU, or else in all."""
    if setting.gpu:
        import torch

        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def utilisation(
    setting: Setting, model: Any, units: Sequence[Sequence[np.ndarray]], seconds: Sequence[float]
) -> dict[str, Any]:
    """Model FLOPs of a step's tokens, and the rate of plain matrix products in this process.

    units: the examples that share their prefixes
    """
    import torch

    from steper_ray.training.flops import model_flops, peak_flops
    from steper_ray.training.packing import packed_length, prefix_tree, visible_pairs

    trees = [prefix_tree(unit) for unit in units]
    layers = model.base_model.layers
    flops = model_flops(
        model.config,
        weights=sum(p.numel() for p in layers.parameters() if p.dim() == 2),
        tokens=sum(packed_length(tree) for tree in trees),
        pairs=sum(visible_pairs(tree) for tree in trees),
        supervised=setting.chains * STEPS * TARGET_TOKENS,
    )
    size = setting.product
    a, b = (torch.randn(size, size, dtype=model.dtype, device=setting.device) for _ in range(2))
    times = []
    for _ in range(20):
        started = now(setting)
        torch.mm(a, b)
        times.append(now(setting) - started)
    rate = 2 * size**3 / statistics.median(times)
    device = torch.cuda.get_device_name() if setting.gpu else f"{torch.get_num_threads()} threads"
    peak = peak_flops(device) if setting.gpu else None
    done = flops / statistics.median(seconds[1:])
    return {
        "flops": flops,
        "mm_rate": rate,
        "mfu": done / rate,
        "mfu_of_stated_peak": None if peak is None else done / peak,
        "device": device,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
