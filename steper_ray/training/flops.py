"""Model FLOPs utilisation (MFU) of a GPU, and peak memory.

MFU counts the matrix products of the tokens that were really computed: packed prefixes once, logits where
something is supervised, backward twice the forward; activation checkpointing's second forward is not
(PaLM, arXiv 2204.02311, appendix B).
"""

import resource
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from steper_ray.training.packing import packed_length, visible_pairs

if TYPE_CHECKING:
    import torch

    from steper_ray.training.training_data import Unit


PEAK_TFLOPS: Final = {
    "B200": 2250,
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "H800": 989,
    "A100": 312,
    "A800": 312,
    "L40S": 362,
    "L40": 181,
    "L4": 121,
    "A40": 150,
    "A10": 125,
    "RTX 4090": 165,
    "MI300X": 1307,
}
"""Dense bf16 peak by a part of the device's name, as its maker states it; the first that fits counts."""


def peak_flops(device_name: str) -> float | None:
    """Dense bf16 FLOP/s of a GPU; None for one that is not in the list."""
    for name, tflops in PEAK_TFLOPS.items():
        if name in device_name:
            return tflops * 1e12
    return None


def model_flops(config: Any, weights: int, tokens: int, pairs: int, supervised: int) -> float:
    """FLOPs of a forward and a backward pass.

    config:     the text model's transformers configuration
    weights:    those of the layers' matrices: every token goes through all of them (no experts)
    pairs:      from `visible_pairs`
    supervised: tokens whose logits are computed
    """
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    forward = 2.0 * weights * tokens
    forward += 4 * pairs * head * config.num_attention_heads * config.num_hidden_layers
    forward += 2 * supervised * config.hidden_size * config.vocab_size
    return float(3 * forward)


def seconds_at_peak(
    model: Any, config: Any, units: "Sequence[Unit]", device: "torch.device"
) -> float | None:
    """Seconds that the matrix products of a global batch would take on one GPU at its peak.

    Divided by the seconds that the batch took and by the number of GPUs, it is the MFU. None on a CPU, on
    a GPU whose peak is not known, and for models with experts.

    config: the text model's transformers configuration
    """
    import torch

    if device.type != "cuda":
        return None
    peak = peak_flops(torch.cuda.get_device_name(device))
    if peak is None or getattr(config, "num_experts", None):
        return None
    tables = {id(model.get_input_embeddings().weight), id(model.get_output_embeddings().weight)}
    flops = model_flops(
        config,
        weights=sum(_numbers(p) for p in model.parameters() if id(p) not in tables),
        tokens=sum(packed_length(unit.tree) for unit in units),
        pairs=sum(visible_pairs(unit.tree) for unit in units),
        supervised=sum(e.target_tokens for unit in units for e in unit.examples),
    )
    return flops / peak


def _numbers(parameter: Any) -> int:
    """Numbers of a weight when it is whole, also of one in shards or in 4 bits."""
    state = getattr(parameter, "quant_state", None)
    if state is not None:
        return int(state.shape.numel())
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def peak_memory(device: "torch.device") -> int:
    """Maximum of bytes that this rank has held: of the GPU if it has one, else of the process."""
    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
