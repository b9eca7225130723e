"""A checkpoint that other shards wrote: for another number of workers, ZeRO stage or place of its states.

Rank 0 has it converted to DeepSpeed's universal layout, which has whole tensors: a folder a parameter. This
is done by a process of its own that works on several cores, and all ranks wait for the folder, in no
collective operation, so that none runs out of time. Then every rank takes its part of each tensor.
(DeepSpeed's own loading of that layout needs the ZeRO stage that wrote it.)
"""

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import pad

from steper_ray.errors import StageError
from steper_ray.training.all_ranks import agreed
from steper_ray.training.checkpoints import SHARDS_TAG
from steper_ray.training.storage import folder_size

logger = logging.getLogger(__name__)


UNIVERSAL: Final = "universal"
"""Folder below the training's, while a checkpoint is converted."""


MAX_CONVERTERS: Final = 8
"""Processes that convert at most."""


MOMENTS: Final = ("exp_avg", "exp_avg_sq")
"""Adam's, as the layout and the optimizer call them."""


def load_converted(engine: Any, checkpoint: Path, *, step: int, scratch: Path) -> None:
    """Load weights and optimizer from a checkpoint that fits no shard; every rank takes part.

    step:    optimizer steps that the checkpoint was written after
    scratch: a folder that all ranks see, with room for twice the checkpoint

    Raises AllRanksError if that room is lacking.
    """
    folder = scratch / UNIVERSAL / "whole"
    first = dist.get_rank() == 0

    def clear() -> None:
        if first:
            shutil.rmtree(folder.parent, ignore_errors=True)
            folder.parent.mkdir(parents=True)
            _check_room(checkpoint, folder.parent)

    agreed(clear, dist.get_world_size())
    if first:
        to_universal(checkpoint, folder)
    while not folder.is_dir():
        time.sleep(0.1)
    _start_adam(engine.optimizer, step)
    for name, parameter in engine.module.named_parameters():
        if parameter.requires_grad:
            _set_parameter(parameter, folder / "zero" / name)
    dist.barrier()
    if first:
        shutil.rmtree(folder.parent)


def _start_adam(optimizer: Any, step: int) -> None:
    """Give each of this rank's tensors Adam's states, as its first step would."""
    adam, stage_3 = optimizer.optimizer, hasattr(optimizer, "fp32_partitioned_groups_flat")
    tensors = (
        optimizer.fp32_partitioned_groups_flat
        if stage_3
        else optimizer.single_partition_of_fp32_groups
    )
    for tensor in tensors:
        state = adam.state[tensor]
        for moment in MOMENTS:
            state.setdefault(moment, torch.zeros_like(tensor))
        counts_in_tensors = isinstance(adam, torch.optim.AdamW)  # DeepSpeed's own counts in numbers
        state["step"] = (
            torch.tensor(float(step), device=tensor.device) if counts_in_tensors else step
        )
    if not stage_3:
        optimizer._lazy_init_hp_params_optimizer_state()


def _check_room(checkpoint: Path, scratch: Path) -> None:
    """Raises StageError where a conversion has no room: it writes the states twice."""
    size = folder_size([checkpoint])
    free = shutil.disk_usage(scratch).free
    if free < 2 * size:
        raise StageError(
            f"train: {scratch} has {free / 1e9:,.1f} GB free, converting the checkpoint for other workers, "
            f"ZeRO stage or offloading takes {2 * size / 1e9:,.1f} GB; make room, or train as before"
        )


def to_universal(checkpoint: Path, folder: Path) -> None:
    """Write a checkpoint's shards as `folder`, in DeepSpeed's universal layout, whole or not at all.

    Raises StageError if DeepSpeed's converter fails.
    """
    # one of its own for each attempt: a converter outlives a worker that is killed
    partial = Path(tempfile.mkdtemp(dir=folder.parent))
    processes = str(min(MAX_CONVERTERS, os.cpu_count() or 1))
    started = time.monotonic()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "deepspeed.checkpoint.ds_to_universal"),
            *("--input_folder", str(checkpoint / SHARDS_TAG)),
            *("--output_folder", str(partial)),
            *("--num_extract_workers", processes),
            *("--num_merge_workers", processes),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        line = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
        raise StageError(f"train: the checkpoint {checkpoint} cannot be converted: {line}")
    partial.rename(folder)
    logger.info("the checkpoint was converted in %.1f s", time.monotonic() - started)


def _set_parameter(parameter: Any, folder: Path) -> None:
    """Set this rank's part of a parameter, of its master weight and of Adam's moments."""
    import deepspeed

    whole = _read(folder / "fp32.pt", parameter)
    sharded = [parameter] if hasattr(parameter, "ds_id") else []
    with torch.no_grad(), deepspeed.zero.GatheredParameters(sharded, modifier_rank=0):
        if not sharded or dist.get_rank() == 0:
            parameter.copy_(whole.view(parameter.shape))
    _set_state(parameter, whole, None)
    for moment in MOMENTS:
        _set_state(parameter, _read(folder / f"{moment}.pt", parameter), moment)


def _read(file: Path, parameter: Any) -> Tensor:
    """A whole tensor, flat; shards of ZeRO-3 fill it up to a multiple of their number."""
    content = torch.load(file, weights_only=True)
    value: Tensor = content["param"] if isinstance(content, dict) else content
    return value.flatten()[: getattr(parameter, "ds_numel", parameter.numel())].float()


def _set_state(parameter: Any, whole: Tensor, key: str | None) -> None:
    """Set this rank's part of a state; key: as Adam calls it, None for the master weight"""
    if not hasattr(parameter, "ds_id"):
        if hasattr(parameter, "_hp_mapping"):  # of ZeRO-1 and -2
            parameter.set_full_hp_param(whole, key)
        return
    # As DeepSpeed's `set_full_hp_param`, which takes no number of elements that the ranks do not divide.
    optimizer = parameter._z3_optimizer
    part, group = optimizer._get_fp32_opt_state_partition(
        parameter, release_swap_buffers=False, optim_state_key=key
    )
    size, ranks = part.numel(), dist.get_world_size()
    filled = pad(whole, (0, size * ranks - len(whole)))
    part.data.copy_(filled.narrow(0, size * dist.get_rank(), size))
    if optimizer._swappable_optimizer_subgroup(group):
        optimizer._optimizer_states_and_gradient_swap_out(group)
