"""Sums of the examples' losses and accuracies by ability: what ranks exchange, and L_j from it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from steper_ray.training.objective import PerAbility
from steper_ray.training.tokenization import TokenExample

if TYPE_CHECKING:
    from torch import Tensor, device


def zero_sums(abilities: int, device: "device") -> "Tensor":
    """(2, abilities + 1) fp32: sums of the examples' NLL, and of their accuracy, by ability.

    Behind the abilities: those of the mix.
    """
    import torch

    return torch.zeros(2, abilities + 1, device=device)


def add_losses(
    sums: "Tensor", examples: Sequence[TokenExample], nll_E: Any, right_E: Any, *, counted: bool
) -> None:
    """Add those of some examples, in place; not counted: of a stand-in, which changes nothing"""
    import torch

    abilities = torch.tensor([example.ability for example in examples], device=sums.device)
    sums.index_add_(1, abilities, torch.stack([nll_E, right_E]) * float(counted))


def ability_means(sums: "Tensor", count_A: Sequence[int]) -> tuple[PerAbility, PerAbility]:
    """L_j and accuracy of a global batch, 0 for an absent ability.

    sums: of all ranks; count_A: examples of each ability in the batch
    """
    loss_A, accuracy_A = (
        tuple(value / max(1, count) for value, count in zip(sum_A, count_A, strict=True))
        for sum_A in sums[:, : len(count_A)].tolist()
    )
    return loss_A, accuracy_A
