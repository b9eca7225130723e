"""Activation checkpointing: what of a layer is kept for its backward pass, and what is computed again.

All of it again (Chen et al. 2016, arXiv 1604.06174) takes a second forward pass. Selectively
(Korthikanti et al. 2022, arXiv 2205.05198) the results of matrix products and attention stay, which is
nearly all of the work, and norms, rotary embeddings and activation functions are computed again.
"""

from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import create_selective_checkpoint_contexts

from steper_ray.training.settings import Recompute


def recompute(model: Any, what: Recompute) -> None:
    """Have each layer of a transformers model compute again, for its backward pass, what is not kept."""
    if what == "none" or not model.supports_gradient_checkpointing:
        return
    how: dict[str, Any] = {"use_reentrant": False}
    if what == "selective":
        how["context_fn"] = _contexts
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=how)


_ATTENTION = (
    "flash_attention",
    "flash_attention_for_cpu",
    "efficient_attention",
    "cudnn_attention",
)


_KEPT: Final[list[Any]] = [
    *(getattr(torch.ops.aten, name).default for name in ("mm", "addmm", "bmm", "baddbmm")),
    *(getattr(torch.ops.aten, f"_scaled_dot_product_{kind}").default for kind in _ATTENTION),
]
"""Operations whose results are kept."""


class _Only(TorchDispatchMode):
    """torch's mode, for the operations that are kept alone.

    That counts all of them, and ZeRO-3 gathers weights in the second pass by others than in the first.
    """

    supports_higher_order_operators = True

    def __init__(self, mode: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.mode = mode

    @classmethod
    def ignore_compile_internals(cls) -> bool:
        """Compiled code (FlexAttention) stays compiled, and is computed again; torch asks."""
        return True

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _KEPT:
            return self.mode.__torch_dispatch__(func, types, args, kwargs)
        return func(*args, **(kwargs or {}))


def _contexts() -> tuple[_Only, _Only]:
    """For the forward pass of a layer, and for its second one."""
    first, second = create_selective_checkpoint_contexts(_KEPT)
    return _Only(first), _Only(second)
