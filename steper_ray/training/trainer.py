"""The workers of a training on Ray Train."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from steper_ray.errors import AllRanksError, StageError, find_steper_error
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.ray_runtime.placement import training_worker_resources
from steper_ray.training.worker_spec import WorkerTask

Result = TypeVar("Result")


def run_workers(
    task: WorkerTask,
    loop: Callable[[WorkerTask, LaunchLog], Result | AllRanksError],
    *,
    storage: Path,
    log: LaunchLog,
    callbacks: Sequence[Any] = (),
) -> Result:
    """Run a loop on the workers of a training; returns what it returns on rank 0.

    storage: folder of the checkpoints, absolute

    Raises StageError if a worker fails, or the error of steper_ray that a worker raised or returned.
    """
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    settings = task.train
    # Loosely typed: Ray annotates neither loops without an argument nor results of loops.
    bound: Any = partial(loop, task, log)
    trainer: Any = TorchTrainer(
        bound,
        torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.use_gpu,
            resources_per_worker={
                name: amount
                for name, amount in training_worker_resources(settings).items()
                if amount
            },
        ),
        run_config=ray.train.RunConfig(
            name=storage.name,
            storage_path=str(storage.parent),
            failure_config=ray.train.FailureConfig(max_failures=settings.max_restarts),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=settings.num_to_keep),
            callbacks=list(callbacks),
        ),
    )
    # Its own would end this process with 1, and stay when the training is over: Ctrl-C is the command's.
    trainer._register_sigint_handler = lambda _: None
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        for failure in (*failures.values(), error):
            if (cause := find_steper_error(failure)) is not None:
                raise cause from None
        first = next(iter(failures.values()), error)
        line = str(first).strip().splitlines()[-1]
        raise StageError(f"train: a worker failed: {line}; see {log.folder}") from error
    outcome: Result | AllRanksError = result.return_value
    if isinstance(outcome, AllRanksError):
        raise outcome.original()
    return outcome
