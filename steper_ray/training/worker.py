"""The loop of a Ray Train worker: one rank of a student's training, from first step to export.

`ray.train.report` holds all ranks for about 2 s, so it is called only with a checkpoint; rank 0
writes the metrics of every step (see `steper_ray.training.metrics`).
"""

import logging
import os
import shutil
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.errors import AllRanksError
from steper_ray.models.hub import use_hub
from steper_ray.ray_runtime.logs import LaunchLog, start_log
from steper_ray.ray_runtime.metrics import RayMetrics
from steper_ray.training.exported_metrics import (
    CHECKPOINT_SECONDS,
    record_step,
    training_metrics,
)
from steper_ray.training.metrics import MetricsWriter, StepMetrics
from steper_ray.training.worker_spec import CANDIDATES, StoppedTraining, WorkerOutcome, WorkerTask

if TYPE_CHECKING:
    from steper_ray.training.rank import RankTraining


logger = logging.getLogger(__name__)


CHECKPOINT: Final = "checkpoint_step-"
"""A checkpoint's folder is called so and after its step."""


def prepare_process(task: WorkerTask) -> None:
    """Set what must precede the first use of torch or DeepSpeed in this process."""
    use_hub(task.hub)
    if not task.train.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Subprocesses of libraries that compile at first use look for ninja beside python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    # DeepSpeed's autotuner, which nothing here uses, would spend seconds on importing MLflow.
    without_mlflow = "mlflow" not in sys.modules
    if without_mlflow:
        sys.modules["mlflow"] = None  # type: ignore[assignment]
    import deepspeed.ops
    import torch
    from transformers.utils import logging as transformers_logging

    if without_mlflow:
        del sys.modules["mlflow"]
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(task.train.cpus_per_worker)
    if not task.train.use_gpu:
        # Read only to see whether DeepSpeed's shared-memory collective, for inference, can be compiled.
        # Finding that out runs compilers for seconds; gloo does the work.
        deepspeed.ops.__compatible_ops__ = {}


def run_worker(task: WorkerTask, log: LaunchLog) -> WorkerOutcome | StoppedTraining | AllRanksError:
    """The Ray Train loop of one worker.

    An error that all workers raise together is returned: Ray Train would try again what is raised.
    """
    try:
        return _train(task, log)
    except AllRanksError as error:
        logger.error("%s", error)
        return error


def start_worker(task: WorkerTask, log: LaunchLog) -> tuple[int, int]:
    """Make this process a worker of a training; returns its rank and the number of ranks."""
    import ray.train

    context = ray.train.get_context()
    rank = context.get_world_rank()
    start_log(log, "worker", rank)
    prepare_process(task)
    return rank, context.get_world_size()


def _train(task: WorkerTask, log: LaunchLog) -> WorkerOutcome | StoppedTraining:
    """Train from the newest checkpoint, or from the start, to the end or until the user stops it."""
    rank, ranks = start_worker(task, log)
    import ray.train.torch

    from steper_ray.training.rank import RankTraining

    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
        training = RankTraining(
            task, rank, ranks, ray.train.torch.get_device(), Path(folder) if folder else None
        )
    logger.info(
        "rank %d of %d %s step %d",
        rank,
        ranks,
        "resumes after" if checkpoint else "starts at",
        training.step,
    )
    writer, record = None, None
    if rank == 0:
        record = training_metrics(log)
        if training.step == 0:
            shutil.rmtree(Path(task.training_dir) / CANDIDATES, ignore_errors=True)
        _remove_leftovers(training.step)
        writer = MetricsWriter(
            Path(task.training_dir),
            training.step,
            trackers=task.train.trackers,
            run=Path(task.training_dir).parent.name,
            settings=task.train.model_dump(mode="json"),
        )
    notice = None
    while not training.finished and not training.stop_due:
        metrics = training.train_step()
        validated = training.validation_due
        if validated:
            metrics = training.validate()
            logger.info("step %d: validation loss %.4f", metrics.step, metrics.validation_loss)
        if writer is not None and record is not None:
            writer.write(metrics)
            record_step(record, metrics)
        if training.ask_due:
            training.asked = time.monotonic()
            before, notice = notice, ray.train.get_preemption_info()
            if notice is not None and notice != before:
                logger.warning("a node is about to be taken away; a checkpoint is written")
                training.save_due = True
        if training.checkpoint_due or (task.report_validations and validated):
            _report(training, metrics, record)
    if writer is not None:
        writer.close()
    if not training.finished:
        logger.info("stopped after step %d, as the user wants", training.step)
        return StoppedTraining(training.step, training.steps)
    logger.info("finished after step %d", training.step)
    return _outcome(training)


def _outcome(training: "RankTraining") -> WorkerOutcome:
    """The outcome of a finished training.

    Its last student is written here without validation, and where no earlier one is left: a finished
    training that is resumed, to be exported anew or by other validations, has moved them away.
    """
    last, task, data = training.last, training.task, training.data
    stored = data.stored
    assert last is not None
    candidates = training.validations.best
    if not candidates:
        training.export()
        loss = last.loss if last.validation_loss is None else last.validation_loss
        candidates = [(loss, last.step)]
    index_E = [index for chain in data.chains for index in chain]
    return WorkerOutcome(
        last=last,
        candidates=candidates,
        validated=bool(data.held_out),
        chains=len(data.chains),
        examples=dict(zip(task.scheme.names, data.trained_A, strict=True)),
        input_tokens=task.train.epochs * int(stored.length_E[index_E].sum()),
        supervised_tokens=task.train.epochs * int(stored.target_E[index_E].sum()),
        dropped_passages=stored.dropped_passages,
        separate_because=training.separate_because,
    )


def checkpoint_storage() -> Path:
    """Folder of the run's checkpoints, which every worker sees."""
    import ray.train

    return Path(ray.train.get_context().get_storage().experiment_fs_path)


def _remove_leftovers(step: int) -> None:
    """Remove checkpoints after a step: half-written ones, and those that died before they were reported."""
    for folder in checkpoint_storage().glob(f".{CHECKPOINT}*.partial"):
        shutil.rmtree(folder, ignore_errors=True)
    for folder in checkpoint_storage().glob(f"{CHECKPOINT}*"):
        if int(folder.name.removeprefix(CHECKPOINT)) > step:
            shutil.rmtree(folder, ignore_errors=True)


def write_checkpoint(training: "RankTraining", whole: Path) -> float:
    """Write a checkpoint as a folder, under a hidden name until it is whole; every rank takes part.

    Returns the seconds that it took.
    """
    import torch.distributed as dist

    partial = whole.with_name(f".{whole.name}.partial")
    started = time.monotonic()
    if training.rank == 0:
        partial.mkdir(parents=True)
    dist.barrier()
    training.save(partial)
    dist.barrier()
    if training.rank == 0:
        partial.rename(whole)
    dist.barrier()
    return time.monotonic() - started


def _report(training: "RankTraining", metrics: StepMetrics, record: RayMetrics | None) -> None:
    """Write a checkpoint where it will stay, and report it."""
    import ray.train
    from ray.train import CheckpointUploadMode

    from steper_ray.training.candidates import keep_candidates

    whole = checkpoint_storage() / f"{CHECKPOINT}{metrics.step:06d}"
    seconds = write_checkpoint(training, whole)
    if record is not None:
        record(CHECKPOINT_SECONDS, seconds)
    best = training.validations.best
    reported = {
        **metrics.as_row(),
        "best_loss": best[0][0] if best else None,
        "validations": training.validations_done,
        "checkpoint_seconds": seconds,
    }
    logger.info("step %d: checkpoint, in %.1f s", metrics.step, seconds)
    ray.train.report(
        reported,
        checkpoint=ray.train.Checkpoint.from_directory(whole),
        checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD,
    )
    if training.rank == 0 and training.data.held_out:
        keep_candidates(training.task, [step for _, step in best])
