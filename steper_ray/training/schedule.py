"""The learning-rate schedule."""

import math


def learning_rate(step: int, steps: int, *, peak: float, warmup_ratio: float) -> float:
    """Linear warmup from 0, then a cosine down to 0.

    step: optimizer step, counted from 0; the first one already moves
    """
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
