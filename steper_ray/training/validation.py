"""Validation losses of a training: which steps are kept as candidates, and when training stops early."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steper_ray.training.objective import PerAbility


@dataclass(slots=True)
class Validations:
    """The record of a run's validations."""

    keep: int
    """How many of the best steps are kept."""
    patience: int
    """Validations without a new best before training stops; 0 never stops it."""
    best: list[tuple[float, int]] = field(default_factory=list)
    """(validation loss, step) of the kept steps, best first."""
    without_best: int = 0
    """Validations since the best one."""

    def add(self, loss: float, step: int) -> bool:
        """Record a validation; returns whether its step is one of the best.

        Of equal losses the earlier step is the better; one that is no number is worse than any.
        """
        loss = math.inf if math.isnan(loss) else loss
        self.without_best = 0 if not self.best or loss < self.best[0][0] else self.without_best + 1
        self.best = sorted([*self.best, (loss, step)])[: self.keep]
        return (loss, step) in self.best

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience > 0 and self.without_best >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume, as plain JSON values."""
        return {"best": self.best, "without_best": self.without_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.best = [(loss, step) for loss, step in state["best"]]
        self.without_best = state["without_best"]


def validations_at(step: int, steps: int, every: int) -> int:
    """Number of validations up to a step: one after every `every` steps, and one after the last step."""
    return step // every + (step == steps and step % every > 0)


def validation_loss(loss_A: PerAbility, count_A: Sequence[int]) -> float:
    """The mean of the abilities' losses, without σ and λ, so that runs of any objective compare.

    loss_A: L_j over the held-out examples; count_A: their number; an ability without any does not count
    """
    present = [loss for loss, count in zip(loss_A, count_A, strict=True) if count]
    return sum(present) / len(present)
