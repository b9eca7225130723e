"""Objectives: one loss per ability, and how these become the loss of a global batch (StepER, section 3.3).

L_j is the mean, over the examples of ability j in the global batch, of each example's token-mean
negative log-likelihood, in nats. With A abilities (StepER has three) the objectives are:

    difficulty   L = Σ_j [ L_j / (2σ_j²) + log σ_j ], σ learned (Kendall et al. 2018, equation 7)
    uniform      L = 1/A Σ_j L_j
    fixed        L = Σ_j λ_j L_j, λ normalised to sum 1
    vanilla-kd   the baseline: one example a chain, its whole path from all its passages; L is the mean
                 of the examples' token-mean losses. It has no abilities; here all are counted as the last

An ability that no example of the global batch belongs to contributes nothing, log σ_j included.

The gradient of the model, and only it, is that of L divided by Σ_j w_j, where w_j is what L_j is multiplied
by and j runs over the abilities that are trained on. So a bound of its norm means the same for each
objective, and `difficulty` with equal σ is `uniform`; L itself, σ and the gradient of σ are as above.

An ability's part c_j of the global batch is 1 where it has an example. With `ability_means: expected` it is
the number of its examples over the number that a batch of so many chains has on average; both L_j/(2σ_j²)
and log σ_j then count c_j times, and an example weighs the same in whichever batch it comes.

Rows of `train.mix`, where there are any, have a loss of their own: M is the mean of their token-mean losses
in the global batch. It stands beside all abilities together, which weigh 1: the gradient of the model is
(∇L / Σ_j w_j + μ ∇M) / (1 + μ) for a mix of weight μ, whatever the objective. Neither σ nor an L_j nor the
validation loss knows of it; the loss that is reported is L + μ M.

σ is no parameter of the model. L_j is known exactly after a reduction of A numbers, so
∂L/∂log σ_j = 1 − L_j/σ_j² needs no autograd, and every rank takes the same step by itself. At rest
σ_j = √L_j, where ability j weighs 1/(2L_j): the *smaller* a loss, the larger its weight, so σ has
bounds.

An objective is an entry in OBJECTIVES. Trainer, metrics and cards ask the object, never its name.

Suffixes: _A per ability, in the scheme's order; _E per example; _P per supervised token.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from steper_ray.errors import InputError
from steper_ray.run.section import did_you_mean
from steper_ray.training.settings import AbilityMeans

if TYPE_CHECKING:
    from torch import Tensor


PerAbility = tuple[float, ...]
"""A number for each ability, in the scheme's order."""


@dataclass(frozen=True, slots=True)
class WeightInputs:
    """What the weights of a global batch may depend on; all of it is known before its forward pass."""

    sigma_A: PerAbility
    """σ before this step, all > 0."""
    lambda_A: PerAbility
    """`train.fixed_weights`: not negative, not all 0."""
    step: int = 0
    """Optimizer step, counted from 0."""
    steps: int = 1
    """Optimizer steps of the whole training."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """How the losses of the abilities become one."""

    weights: Callable[[WeightInputs], PerAbility]
    """What each L_j is multiplied by."""
    regulariser: Callable[[float], float] | None = None
    """Of σ_j: added to L for each ability of the global batch."""
    learns_sigma: bool = False
    """Whether σ moves after each step, along the gradient of L_j/(2σ_j²) + log σ_j."""
    whole_path: bool = False
    """Data layout: one example a chain with its whole path, instead of one a step. It has no abilities."""


def kendall_weights(inputs: WeightInputs) -> PerAbility:
    """1/(2σ²) of each ability."""
    return tuple(0.5 / sigma**2 for sigma in inputs.sigma_A)


def equal_weights(inputs: WeightInputs) -> PerAbility:
    """The same for each ability, 1 in sum."""
    abilities = len(inputs.sigma_A)
    return (1 / abilities,) * abilities


def normalised_weights(inputs: WeightInputs) -> PerAbility:
    """λ, scaled to sum 1."""
    total = sum(inputs.lambda_A)
    return tuple(weight / total for weight in inputs.lambda_A)


def last_weight(inputs: WeightInputs) -> PerAbility:
    """1 for the last ability, 0 for the others."""
    return (*(0.0 for _ in inputs.sigma_A[1:]), 1.0)


OBJECTIVES: Final[dict[str, Objective]] = {
    "difficulty": Objective(weights=kendall_weights, regulariser=math.log, learns_sigma=True),
    "uniform": Objective(weights=equal_weights),
    "fixed": Objective(weights=normalised_weights),
    "vanilla-kd": Objective(weights=last_weight, whole_path=True),
}
"""Objectives by the names that `train.objective` takes."""


def objective_named(name: str) -> Objective:
    """The objective of a name; raises InputError with the nearest name for an unknown one."""
    if name not in OBJECTIVES:
        hint = did_you_mean(name, OBJECTIVES) or f"there are {', '.join(OBJECTIVES)}"
        raise InputError(f"train.objective: no objective is called {name!r}; {hint}")
    return OBJECTIVES[name]


def count_abilities(ability_E: Sequence[int], abilities: int) -> tuple[int, ...]:
    """How many examples each ability has; `abilities` is how many abilities the scheme has."""
    counts = Counter(ability_E)
    return tuple(counts[ability] for ability in range(abilities))


def gradient_shares(weight_A: PerAbility, trained_A: Sequence[int]) -> PerAbility:
    """w_j / Σ_k w_k over the abilities that are trained on; 0 for the others, and where all w_j are 0.

    weight_A:  w_j, from `objective.weights`
    trained_A: number of examples of each ability in the whole training
    """
    weights = [weight if count else 0.0 for weight, count in zip(weight_A, trained_A, strict=True)]
    total = sum(weights) or 1.0
    return tuple(weight / total for weight in weights)


def with_mix(share_A: PerAbility, weight: float) -> PerAbility:
    """The shares of the gradient beside a mix, whose own share stands behind them.

    share_A: from `gradient_shares`; weight: of the mix, beside all of them together
    """
    return (*(share / (1 + weight) for share in share_A), weight / (1 + weight))


def ability_parts(
    count_A: Sequence[int], trained_A: Sequence[int], share: float, means: AbilityMeans
) -> PerAbility:
    """c_j, the part of each ability that a global batch has.

    count_A:   number of its examples in the batch
    trained_A: number of its examples in the whole training
    share:     share of all chains that the batch has
    """
    if means == "batch":
        return tuple(float(count > 0) for count in count_A)
    return tuple(
        count / (trained * share) if count else 0.0
        for count, trained in zip(count_A, trained_A, strict=True)
    )


def example_weights(ability_E: Sequence[int], weight_A: PerAbility) -> list[float]:
    """Weight of each example's loss, so that their sum is Σ_j w_j L_j.

    ability_E: index of the ability of every example of the *global* batch: known from the data order
               before the first backward pass, so micro-batches are weighted once and for all
    weight_A:  w_j, the weight of each ability
    """
    count_A = count_abilities(ability_E, len(weight_A))
    return [weight_A[ability] / count_A[ability] for ability in ability_E]


def global_loss(
    objective: Objective,
    loss_A: PerAbility,
    part_A: PerAbility,
    sigma_A: PerAbility,
    weight_A: PerAbility,
) -> float:
    """L of the whole global batch, in nats.

    loss_A:   L_j, ignored where part_A is 0
    part_A:   c_j, from `ability_parts`
    weight_A: from `objective.weights`
    """
    total = 0.0
    for loss, part, sigma, weight in zip(loss_A, part_A, sigma_A, weight_A, strict=True):
        if part:
            regulariser = objective.regulariser(sigma) if objective.regulariser else 0.0
            total += part * (weight * loss + regulariser)
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
