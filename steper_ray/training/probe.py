"""A few steps of a training on its real workers, for what they take; nothing of them is kept."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steper_ray.errors import AllRanksError
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.training.all_ranks import largest
from steper_ray.training.storage import folder_size
from steper_ray.training.worker import checkpoint_storage, start_worker, write_checkpoint
from steper_ray.training.worker_spec import WorkerTask

if TYPE_CHECKING:
    import torch

    from steper_ray.training.rank import RankTraining


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """What some steps took; bytes are those of the worker that held the most."""

    peak_bytes: int
    room_bytes: int
    """Memory of the GPU; on CPUs a worker's share of what was free on its machine."""
    trained_parameters: int
    frozen_parameters: int
    workers: int
    separate_because: str | None
    """Why examples were not packed."""
    steps: int
    tokens_per_second: float
    """Tokens that went through the model, on all workers together."""
    checkpoint_bytes: int
    checkpoint_seconds: float


def run_probe(task: WorkerTask, log: LaunchLog, *, steps: Sequence[int]) -> Probe | AllRanksError:
    """The Ray Train loop of one worker of a dry run.

    steps: the steps to take; the first one warms up, if there are others, and is not measured

    An error that all workers raise together is returned: Ray Train would try again what is raised.
    """
    rank, ranks = start_worker(task, log)
    import ray.train.torch

    from steper_ray.training.flops import peak_memory
    from steper_ray.training.rank import RankTraining

    device = ray.train.torch.get_device()
    room = _room(device)
    try:
        training = RankTraining(task, rank, ranks, device)
        seconds = tokens = 0.0
        for number, step in enumerate(steps):
            training.step = step
            metrics = training.train_step()
            if number or len(steps) == 1:
                seconds += metrics.seconds
                tokens += metrics.computed_tokens_per_second * metrics.seconds
        size, pause = _checkpoint(training)
    except AllRanksError as error:
        return error
    weights = list(training.engine.module.parameters())
    frozen = [weight for weight in weights if not weight.requires_grad]
    # 4-bit weights are packed: in numbers of the type that is computed in
    frozen_bytes = sum(_count(weight) * weight.element_size() for weight in frozen)
    return Probe(
        peak_bytes=int(largest(peak_memory(device), device)),
        room_bytes=-int(largest(-room, device)),
        trained_parameters=sum(_count(weight) for weight in weights if weight.requires_grad),
        frozen_parameters=frozen_bytes // (2 if task.bf16 else 4),
        workers=ranks,
        separate_because=training.separate_because,
        steps=max(1, len(steps) - 1),
        tokens_per_second=tokens / seconds,
        checkpoint_bytes=size,
        checkpoint_seconds=pause,
    )


def _count(weight: Any) -> int:
    """Numbers of a weight; of one that ZeRO-3 shards, on all workers together."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def _checkpoint(training: "RankTraining") -> tuple[int, float]:
    """Bytes of a checkpoint, and the seconds that it takes to write one; it is removed."""
    import torch.distributed as dist

    folder = checkpoint_storage() / "dry-run"
    seconds = write_checkpoint(training, folder)
    size = folder_size([folder])
    dist.barrier()
    if training.rank == 0:
        shutil.rmtree(folder)
    return size, seconds


def _room(device: "torch.device") -> int:
    """See `Probe.room_bytes`; of this worker."""
    import psutil
    import ray.train
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    workers = ray.train.get_context().get_local_world_size()
    return int(psutil.virtual_memory().available / workers)
