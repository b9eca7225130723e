"""The DeepSpeed configuration and the learning-rate schedule.

The number of micro-batches differs from one global batch to the next. So
`gradient_accumulation_steps` is 1 (nothing is divided by it) and the boundary is set by hand before
each forward pass, with `engine.set_gradient_accumulation_boundary`. In DeepSpeed 0.19.8, ZeRO-2 and
-3 reduce and add into their partition after every backward pass whatever the boundary, ZeRO-1
reduces at the boundary; all three divide by the number of ranks, which the worker undoes by
multiplying its loss by it.

ZeRO stage 0 is left out: with bf16 weights it has no fp32 master copy, and at a learning rate of
5e-6 the weights would not move.
"""

import math
from typing import Any, Literal

ZeroStage = Literal[1, 2, 3]


def deepspeed_config(
    *,
    zero_stage: ZeroStage,
    bf16: bool,
    lr: float,
    weight_decay: float,
    max_grad_norm: float,
) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`.

    bf16: weights and activations in bf16, fp32 masters, fp32 accumulation; otherwise all fp32
    """
    config: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "optimizer": {
            "type": "AdamW",
            # torch's own AdamW: DeepSpeed's CPU Adam is compiled at first use.
            "params": {"lr": lr, "weight_decay": weight_decay, "torch_adam": True},
        },
        "bf16": {"enabled": bf16},
        "zero_optimization": {
            "stage": zero_stage,
            "overlap_comm": bf16 and zero_stage > 1,
            "contiguous_gradients": True,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "steps_per_print": None,
        "wall_clock_breakdown": False,
    }
    if bf16:
        config["data_types"] = {"grad_accum_dtype": "fp32"}
    return config


def learning_rate(step: int, steps: int, *, peak: float, warmup_ratio: float) -> float:
    """Linear warmup from 0, then a cosine down to 0.

    step: optimizer step, counted from 0; the first one already moves
    """
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
