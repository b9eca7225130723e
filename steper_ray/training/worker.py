"""What each Ray Train worker runs: one rank of a student's training, from first step to export.

`ray.train.report` holds all ranks for about 2 s, so it is called only with a checkpoint; rank 0
writes the metrics of every step (see `steper_ray.training.metrics`).
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.files import write_whole
from steper_ray.pretrained import DEFAULTS, HubConfig, use_hub
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import ABILITIES
from steper_ray.session import redirect_output
from steper_ray.training.metrics import MetricsWriter, StepMetrics
from steper_ray.training.objective import count_abilities

if TYPE_CHECKING:
    from steper_ray.training.run import StudentTraining
    from steper_ray.training.trainer import TrainConfig

CANDIDATES: Final = "candidates"
PLACEMENT_FILE: Final = "placement_group"
"""In a sweep: the id of the workers' placement group, for whoever ends the trial from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """Everything a worker needs to know."""

    train: "TrainConfig"
    stepwise_files: tuple[str, ...]
    training_dir: str
    seed: int
    reasoning: ReasoningConfig
    """How the student will be asked; written beside it as `steper.json`."""
    corpus_version: str
    """What the chains were retrieved from; written there too."""
    log: str
    """File for what the workers print."""
    base_model: Mapping[str, str] = field(default_factory=dict)
    """The base student by its content, from `model_identity`; written there too."""
    hub: HubConfig = DEFAULTS
    """How the base student is reached."""
    prepared: str | None = None
    """File with the prepared examples (`steper_ray.training.prepared`); null prepares them here."""
    report_validations: bool = False
    """Write a checkpoint and report to Ray Train after each validation: what a sweep looks at."""

    @property
    def bf16(self) -> bool:
        """Whether weights and activations are bf16."""
        precision = self.train.precision
        return precision == "bf16" or (precision == "auto" and self.train.use_gpu)


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """What rank 0 hands back to the driver."""

    last: StepMetrics
    candidates: list[tuple[float, int]]
    """(validation loss, step) of the students in `candidates/`, best first; without validation the last
    step alone, and its training loss."""
    validated: bool
    chains: int
    """Chains trained on."""
    examples: dict[str, int]
    """Training examples of each ability."""
    input_tokens: int
    """Prompt and target tokens of all examples, every epoch counted."""
    supervised_tokens: int
    dropped_passages: int
    separate_because: str | None
    """Why the examples of a chain did not share their prefixes; None if they did."""


def candidate_dir(training_dir: str, step: int) -> Path:
    """Where the student of a step is written."""
    return Path(training_dir) / CANDIDATES / f"step-{step:06d}"


def prepare_process(task: WorkerTask) -> None:
    """Settings of this process that must precede the first use of torch or DeepSpeed."""
    use_hub(task.hub)
    if not task.train.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    # Subprocesses of libraries that compile at first use look for ninja beside python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    import deepspeed.ops
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(task.train.cpus_per_worker)
    if not task.train.use_gpu:
        # Asked only whether DeepSpeed's shared-memory collective, for inference, can be compiled.
        # The question itself runs compilers for seconds; gloo does the work.
        deepspeed.ops.__compatible_ops__ = {}


def run_worker(task: WorkerTask) -> WorkerOutcome:
    """The Ray Train loop of one worker."""
    redirect_output(Path(task.log))
    prepare_process(task)
    import ray.train
    import ray.train.torch
    import ray.util

    from steper_ray.training.run import StudentTraining

    context = ray.train.get_context()
    rank, ranks = context.get_world_rank(), context.get_world_size()
    checkpoint = ray.train.get_checkpoint()
    with checkpoint.as_directory() if checkpoint else nullcontext() as folder:
        training = StudentTraining(
            task, rank, ranks, ray.train.torch.get_device(), Path(folder) if folder else None
        )
    if rank == 0 and task.report_validations:
        placement = ray.util.get_current_placement_group()
        if placement is not None:
            write_whole(Path(task.training_dir) / PLACEMENT_FILE, placement.id.hex())
    writer = None
    if rank == 0:
        if training.step == 0:
            shutil.rmtree(Path(task.training_dir) / CANDIDATES, ignore_errors=True)
        writer = MetricsWriter(
            Path(task.training_dir),
            training.step,
            trackers=task.train.trackers,
            run=Path(task.training_dir).parent.name,
            settings=task.train.model_dump(mode="json"),
        )
    while not training.finished:
        metrics = training.train_step()
        validated = training.validation_due
        if validated:
            metrics = training.validate()
        if writer is not None:
            writer.write(metrics)
        if training.checkpoint_due or (task.report_validations and validated):
            _report(training, metrics)
    if writer is not None:
        writer.close()
    return _outcome(training)


def _outcome(training: "StudentTraining") -> WorkerOutcome:
    """What a finished training came to; without validation its last student is written now."""
    last, train, data = training.last, training.task.train, training.data
    assert last is not None
    candidates = training.validations.best
    if not training.held_out:
        training.export()
        candidates = [(last.loss, last.step)]
    examples = [data.examples[index] for chain in training.chains for index in chain]
    return WorkerOutcome(
        last=last,
        candidates=candidates,
        validated=bool(training.held_out),
        chains=len(training.chains),
        examples=dict(zip(ABILITIES, count_abilities([e.ability for e in examples]), strict=True)),
        input_tokens=train.epochs * sum(len(example.ids) for example in examples),
        supervised_tokens=train.epochs * sum(example.target_tokens for example in examples),
        dropped_passages=data.dropped_passages,
        separate_because=training.separate_because,
    )


def _report(training: "StudentTraining", metrics: StepMetrics) -> None:
    import ray.train

    with tempfile.TemporaryDirectory() as folder:
        training.save(Path(folder))
        best = training.validations.best
        reported = {
            **metrics.as_dict(),
            "best_loss": best[0][0] if best else None,
            "validations": training.validations_done,
        }
        ray.train.report(reported, checkpoint=ray.train.Checkpoint.from_directory(folder))
