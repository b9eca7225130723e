"""σ_j, the learned scale of each ability's loss."""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

from steper_ray.training.objective import Triple
from steper_ray.training.settings import SigmaOptimizer


class Sigma:
    """The three σ: learned in log space, fp32, at a constant learning rate, without weight decay.

    Frozen inside a global batch; `update` is called once after it, on every rank alike.
    """

    def __init__(
        self,
        initial_3: Triple,
        *,
        lr: float,
        lowest: float,
        highest: float,
        optimizer: SigmaOptimizer = "adam",
    ) -> None:
        import torch

        self._bounds = (math.log(lowest), math.log(highest))
        self._log_3 = [torch.tensor(math.log(sigma)).clamp_(*self._bounds) for sigma in initial_3]
        kinds = {"adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        self._optimizer: torch.optim.Optimizer = kinds[optimizer](self._log_3, lr=lr)

    @property
    def value_3(self) -> Triple:
        """σ of each ability."""
        init, exp, agg = (math.exp(log.item()) for log in self._log_3)
        return (init, exp, agg)

    def update(self, loss_A: Triple, present_3: Sequence[bool]) -> None:
        """One optimizer step along 1 − L_j/σ_j²; an absent ability keeps its σ and its moments.

        loss_A: L_j of the global batch, in nats
        """
        for log, loss, present in zip(self._log_3, loss_A, present_3, strict=True):
            log.grad = 1.0 - loss * (-2.0 * log).exp() if present else None
        self._optimizer.step()
        for log in self._log_3:
            log.clamp_(*self._bounds)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on; for `torch.save`."""
        return deepcopy({"log": self._log_3, "optimizer": self._optimizer.state_dict()})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for log, value in zip(self._log_3, state["log"], strict=True):
            log.copy_(value)
        self._optimizer.load_state_dict(state["optimizer"])
