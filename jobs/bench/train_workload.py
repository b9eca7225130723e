"""The model of every contender of `train.py`; and its speed and memory, measured."""

import resource
import statistics
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Final

from train_chains import VOCABULARY
from train_settings import Setting

from steper_ray.training.packing import packed_length, prefix_tree, visible_pairs
from steper_ray.training.tokenization import TokenExample

LR: Final = 1e-4


def make_model(setting: Setting, device: str | None = None) -> Any:
    """The model of every contender, the same random weights, built where it will be trained.

    device: another one; on `meta` it has no weights, only their shapes
    """
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
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    with torch.device(device or setting.device):
        return AutoModelForCausalLM.from_config(
            config, dtype=torch.bfloat16 if setting.bf16 else torch.float32
        )


def liger_obstacle(setting: Setting) -> str | None:
    """Why Liger's kernels are off, for every contender; None if they are on."""
    if not setting.gpu:
        return "needs a GPU"
    return None if find_spec("liger_kernel") else "not installed"


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
    setting: Setting, units: Sequence[Sequence[TokenExample]], seconds: float
) -> dict[str, Any]:
    """Model FLOPs of a step's tokens, and the rate of plain matrix products in this process.

    units: the examples that share their prefixes; seconds: of a step
    """
    import torch

    from steper_ray.training.flops import model_flops, peak_flops

    model = make_model(setting, "meta")
    trees = [prefix_tree([example.ids for example in unit]) for unit in units]
    flops = model_flops(
        model.config,
        weights=sum(p.numel() for p in model.base_model.layers.parameters() if p.dim() == 2),
        tokens=sum(packed_length(tree) for tree in trees),
        pairs=sum(visible_pairs(tree) for tree in trees),
        supervised=sum(example.target_tokens for unit in units for example in unit),
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
    return {
        "flops": flops,
        "mm_rate": rate,
        "mfu": flops / seconds / rate,
        "mfu_of_stated_peak": None if peak is None else flops / seconds / peak,
        "device": device,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
