"""What is minimised: one loss per ability, and how the three become one (StepER, section 3.3).

L_j is the mean, over the examples of ability j in the global batch, of each example's token-mean
negative log-likelihood, in nats. The modes:

    difficulty   L = Σ_j [ L_j / (2σ_j²) + log σ_j ], σ learned (Kendall et al. 2018, equation 7)
    uniform      L = ⅓ Σ_j L_j
    fixed        L = Σ_j λ_j L_j, λ normalised to sum 1
    vanilla-kd   the baseline: one example a chain, its whole path from all its passages; L is the mean
                 of the examples' token-mean losses. It has no abilities; here all are counted as the last

An ability that no example of the global batch belongs to contributes nothing, log σ_j included.

σ is no parameter of the model. L_j is known exactly after a reduction of three numbers, so
∂L/∂log σ_j = 1 − L_j/σ_j² needs no autograd, and every rank takes the same step by itself. At rest
σ_j = √L_j, where ability j weighs 1/(2L_j): the *smaller* a loss, the larger its weight, so σ has
bounds.

Suffixes: _3 per ability, in the order init, exp, agg; _E per example; _P per supervised token.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steper_ray.training.settings import Mode

if TYPE_CHECKING:
    from torch import Tensor


Triple = tuple[float, float, float]


def ability_weights(mode: Mode, sigma_A: Triple, lambda_A: Triple) -> Triple:
    """What each L_j is multiplied by.

    sigma_A:  σ, all > 0; read by `difficulty` only
    lambda_A: λ, not negative, not all 0; read by `fixed` only
    """
    if mode == "uniform":
        return (1 / 3, 1 / 3, 1 / 3)
    if mode == "vanilla-kd":
        return (0.0, 0.0, 1.0)
    if mode == "fixed":
        init, exp, agg = lambda_A
        total = init + exp + agg
        return (init / total, exp / total, agg / total)
    init, exp, agg = sigma_A
    return (0.5 / init**2, 0.5 / exp**2, 0.5 / agg**2)


def count_abilities(ability_E: Sequence[int]) -> tuple[int, int, int]:
    """How many examples each ability has."""
    counts = Counter(ability_E)
    return (counts[0], counts[1], counts[2])


def example_weights(ability_E: Sequence[int], weight_A: Triple) -> list[float]:
    """What each example's loss is multiplied by, so that the sum is Σ_j w_j L_j.

    ability_E: 0 init · 1 exp · 2 agg, for every example of the *global* batch: known from the data
             order before the first backward pass, so micro-batches are weighted once and for all
    """
    count_A = count_abilities(ability_E)
    return [weight_A[ability] / count_A[ability] for ability in ability_E]


def global_loss(
    mode: Mode, loss_A: Triple, count_A: Sequence[int], sigma_A: Triple, weight_A: Triple
) -> float:
    """L of the whole global batch, in nats.

    loss_A:   L_j, ignored where count_A is 0
    weight_A: from `ability_weights`
    """
    total = 0.0
    for j in range(3):
        if count_A[j]:
            regulariser = math.log(sigma_A[j]) if mode == "difficulty" else 0.0
            total += weight_A[j] * loss_A[j] + regulariser
    return total


def example_means(value_P: "Tensor", example_P: "Tensor", examples: int) -> "Tensor":
    """Each example's mean over its supervised tokens.

    value_P:   (supervised tokens,) fp32, such as the tokens' negative log-likelihoods in nats
    example_P: (supervised tokens,) int64, which example the token belongs to
    Returns (examples,) fp32.
    """
    import torch

    sum_E = value_P.new_zeros(examples).index_add(0, example_P, value_P)
    return sum_E / torch.bincount(example_P, minlength=examples)
