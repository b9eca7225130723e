"""σ_j, the learned scale of each ability's loss."""

import math
from copy import deepcopy
from typing import Any

from steper_ray.training.objective import PerAbility
from steper_ray.training.settings import SigmaOptimizer


class Sigma:
    """σ of each ability: learned in log space, fp32, at a constant learning rate, without weight decay.

    Frozen inside a global batch; `update` is called once after it, on every rank alike.
    """

    def __init__(
        self,
        initial_A: PerAbility,
        *,
        lr: float,
        lowest: float,
        highest: float,
        optimizer: SigmaOptimizer = "adam",
    ) -> None:
        import torch

        self._bounds = (math.log(lowest), math.log(highest))
        self._log_A = [torch.tensor(math.log(sigma)).clamp_(*self._bounds) for sigma in initial_A]
        optimizers = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        self._optimizer: torch.optim.Optimizer = optimizers[optimizer](self._log_A, lr=lr)

    @property
    def value_A(self) -> PerAbility:
        """σ of each ability."""
        return tuple(math.exp(log.item()) for log in self._log_A)

    def update(self, loss_A: PerAbility, part_A: PerAbility) -> None:
        """One optimizer step along c_j (1 − L_j/σ_j²); an absent ability keeps its σ and its moments.

        loss_A: L_j of the global batch, in nats
        part_A: c_j, from `ability_parts`; 0 for an absent ability
        """
        for log, loss, part in zip(self._log_A, loss_A, part_A, strict=True):
            log.grad = part * (1.0 - loss * (-2.0 * log).exp()) if part else None
        self._optimizer.step()
        for log in self._log_A:
            log.clamp_(*self._bounds)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume; for `torch.save`."""
        return deepcopy({"log": self._log_A, "optimizer": self._optimizer.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        for log, value in zip(self._log_A, state["log"], strict=True):
            log.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
