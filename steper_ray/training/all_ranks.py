"""What all ranks of a training agree on, so that none waits in a collective for one that has left."""

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, cast

from steper_ray.errors import AllRanksError, InputError, SteperError
from steper_ray.training.tokenization import TokenExample

if TYPE_CHECKING:
    from torch import Tensor, device

Result = TypeVar("Result")


BAD_BATCH_FILE: Final = "bad_batch.json"


ExampleLosses = Sequence[tuple[Sequence[TokenExample], "Tensor"]]
"""Of each micro-batch of a step, its examples and their losses, (E,) on the device."""


def agreed(work: Callable[[], Result], ranks: int) -> Result:
    """What the work of this rank gives, if it raises no error of steper_ray on any rank.

    Raises AllRanksError on every rank where it raises one on one of them, so that none waits for another.
    """
    import torch.distributed as dist

    result, error = None, None
    try:
        result = work()
    except SteperError as raised:
        error = raised
    everywhere: list[SteperError | None] = [None] * ranks
    dist.all_gather_object(everywhere, error)
    for first in everywhere:
        if first is not None:
            raise AllRanksError(str(first), of_input=isinstance(first, InputError)) from error
    return cast("Result", result)


def largest(value: float, device: "device") -> float:
    """The largest of the ranks' numbers."""
    import torch
    import torch.distributed as dist

    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return float(shared)


def check_finite(
    quantity: str, value: float, step: int, *, losses: ExampleLosses, rank: int, folder: Path
) -> None:
    """Raises AllRanksError if a quantity of a step is not finite; names its examples in a file of `folder`.

    The quantity is the same on every rank, so all ranks come here or none.

    losses: those of this rank's micro-batches
    """
    if math.isfinite(value):
        return
    causes, names = _not_finite(losses)
    file = folder / BAD_BATCH_FILE
    if rank == 0:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"step": step, "not_finite": causes, "examples": names}
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    source = "; the loss of every example was finite"
    if causes:
        more = f" and {len(causes) - 1} more" if len(causes) > 1 else ""
        source = f", from example {causes[0]}{more}"
    raise AllRanksError(
        f"train: the {quantity} of step {step} is {value}{source}; look at it, or lower train.lr; {file} "
        "has all examples of the step, and the last checkpoint is kept",
        diverged=True,
    )


def _not_finite(losses: ExampleLosses) -> tuple[list[str], list[str]]:
    """Names of the examples whose loss is not finite, and of all; those of every rank."""
    import torch
    import torch.distributed as dist

    here = [
        (f"{example.chain_id}/{example.step}", finite)
        for examples, nll_E in losses
        for example, finite in zip(examples, torch.isfinite(nll_E).tolist(), strict=True)
    ]
    everywhere: list[list[tuple[str, bool]]] = [[]] * dist.get_world_size()
    dist.all_gather_object(everywhere, here)
    finite_of = {name: finite for of_rank in everywhere for name, finite in of_rank}
    return sorted(name for name, finite in finite_of.items() if not finite), sorted(finite_of)
