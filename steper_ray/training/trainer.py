"""The workers of a training on Ray Train."""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from steper_ray.errors import AllRanksError, StageError, find_steper_error
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.ray_runtime.placement import worker_bundle
from steper_ray.ray_runtime.room import check_room
from steper_ray.training.metrics import METRICS_FILE
from steper_ray.training.worker_spec import STOP_FILE, StoppedTraining, WorkerTask

Result = TypeVar("Result")


def run_workers(
    task: WorkerTask,
    loop: Callable[[WorkerTask, LaunchLog], Result | StoppedTraining | AllRanksError],
    *,
    storage: Path,
    log: LaunchLog,
    callbacks: Sequence[Any] = (),
    stoppable: bool = True,
) -> Result:
    """Run a loop on the workers of a training; returns what it returns on rank 0.

    storage:   folder of the checkpoints, absolute
    stoppable: whether SIGTERM, once training is under way, has the workers write a checkpoint and stop; a
               second one then does what the first one would have

    Raises InputError if the cluster can never have room for the workers, KeyboardInterrupt if the training
    was stopped so, StageError if a worker fails, or the error of steper_ray that one raised or returned.
    """
    import ray.exceptions
    import ray.train

    settings = task.train
    check_room(
        "train",
        [worker_bundle(settings)] * settings.min_workers,
        "lower train.workers or train.cpus_per_worker"
        + (", or leave train.use_gpu out" if settings.use_gpu else ""),
    )
    trainer = _trainer(task, partial(loop, task, log), storage, callbacks)
    try:
        with _stopping_at_sigterm(Path(task.training_dir)) if stoppable else nullcontext():
            result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        for failure in (*failures.values(), error):
            if (cause := find_steper_error(failure)) is not None:
                raise cause from None
        first = next(iter(failures.values()), error)
        line = str(first).strip().splitlines()[-1]
        raise StageError(f"train: a worker failed: {line}; see {log.folder}") from error
    except ray.exceptions.OutOfMemoryError as error:
        # of Ray Train's own actors; one that died of something else may be a trial that its sweep stopped
        line = str(error).strip().splitlines()[0]
        raise StageError(f"train: Ray ended the training: {line}; see {log.folder}") from error
    outcome: Result | StoppedTraining | AllRanksError = result.return_value
    if isinstance(outcome, StoppedTraining):
        raise KeyboardInterrupt(
            f"train: stopped by SIGTERM after step {outcome.step:,} of {outcome.steps:,}; the same command "
            "resumes from its checkpoint"
        )
    if isinstance(outcome, AllRanksError):
        raise outcome.original()
    return outcome


def _trainer(
    task: WorkerTask, loop: Callable[[], Any], storage: Path, callbacks: Sequence[Any]
) -> Any:
    """Ray Train's trainer; loosely typed, since Ray annotates neither such loops nor what they return."""
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    settings, bundle = task.train, worker_bundle(task.train)
    scaling: Any = ray.train.ScalingConfig  # to type checkers, that of the first Ray Train
    trainer: Any = TorchTrainer(
        loop,
        torch_config=TorchConfig(
            backend="nccl" if settings.use_gpu else "gloo",
            timeout_s=round(60 * settings.timeout_minutes),
        ),
        scaling_config=scaling(
            num_workers=settings.workers,
            # A change costs what was trained since the last checkpoint, so there must be one before it.
            elastic_resize_monitor_interval_s=120 * (settings.checkpoint_every_minutes or 15),
            use_gpu=settings.use_gpu,
            resources_per_worker=dict(bundle.resources),
            label_selector=dict(bundle.labels) or None,
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
    return trainer


@contextmanager
def _stopping_at_sigterm(training: Path) -> Iterator[None]:
    """While the block runs, the first SIGTERM writes a file that the workers look for after each step.

    Before the first step, while workers may still wait for room, it does what it would have done. Signals
    reach the main thread only: in another one, this does nothing.
    """
    stop_file, metrics = training / STOP_FILE, training / METRICS_FILE
    stop_file.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    started = time.time()

    def stop(number: int, frame: Any) -> None:
        signal.signal(signal.SIGTERM, before)
        if not metrics.is_file() or metrics.stat().st_mtime < started:
            if callable(before):
                before(number, frame)
            raise KeyboardInterrupt
        stop_file.touch()
        print(
            "  train  stops after this step, with a checkpoint; SIGTERM once more stops it at once"
        )

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        stop_file.unlink(missing_ok=True)
