"""How much of a GPU's arithmetic goes into the model (model FLOPs utilisation, MFU).

Counted are the matrix products of the tokens that were really computed: packed prefixes once, logits where
something is supervised, backward twice the forward; activation checkpointing's second forward is not
(PaLM, arXiv 2204.02311, appendix B).
"""

from typing import Any, Final

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
