"""Which of the validated steps are worth keeping, and when to stop early."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from steper_ray.training.objective import Triple


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

    def add(self, loss: float, step: int) -> tuple[bool, list[int]]:
        """Record a validation; whether its step is to be kept, and the steps to give up for it.

        Of equal losses the earlier step is the better.
        """
        self.without_best = 0 if not self.best or loss < self.best[0][0] else self.without_best + 1
        ranked = sorted([*self.best, (loss, step)])
        self.best, left = ranked[: self.keep], ranked[self.keep :]
        return (loss, step) in self.best, [other for _, other in left if other != step]

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return self.patience > 0 and self.without_best >= self.patience

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, as plain JSON values."""
        return {"best": self.best, "without_best": self.without_best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        self.best = [(loss, step) for loss, step in state["best"]]
        self.without_best = state["without_best"]


def validation_loss(loss_A: Triple, count_A: Sequence[int]) -> float:
    """The mean of the abilities' losses, without σ and λ, so that runs of any objective compare.

    loss_A: L_j over the held-out examples; count_A: their number, an ability without any is left out
    """
    present = [loss for loss, count in zip(loss_A, count_A, strict=True) if count]
    return sum(present) / len(present)
