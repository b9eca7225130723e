"""The train stage: step-wise examples in, a student as a Hugging Face folder out, on Ray Train.

A run that stopped (a dead node, Ctrl-C) goes on from its last checkpoint when started again with
the same settings and the same examples; with others it starts anew. Both are part of the name under
which Ray Train keeps its checkpoints.
"""

import hashlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from steper_ray.errors import InputError, StageError, find_steper_error
from steper_ray.models import check_model, model_size, student_settings
from steper_ray.schema import STAGES, Stage
from steper_ray.section import Section

if TYPE_CHECKING:
    from steper_ray.config import RunConfig
    from steper_ray.training.worker import WorkerOutcome, WorkerTask

Share = Annotated[float, Field(ge=0.0, le=1.0)]


class TrainConfig(Section):
    """How the student is trained."""

    model: str = ""
    """The base student: a Hugging Face folder, or a name on the Hub."""
    objective: Literal["difficulty", "uniform", "fixed", "vanilla-kd"] = "difficulty"
    """How the three stage losses become one: learned σ, one third each, or `fixed_weights`. `vanilla-kd`
    is the baseline: each chain's whole path at once, no stages."""
    stages: tuple[Stage, ...] = STAGES
    """Stages whose examples are trained on."""
    fixed_weights: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = (1.0, 1.0, 1.0)
    """λ of init, exp and agg for `fixed`; scaled to sum 1."""
    sigma_init: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1.0, 1.0, 1.0)
    """σ of init, exp and agg at the start."""
    sigma_lr: PositiveFloat = 0.02
    """Learning rate of log σ, constant."""
    sigma_min: PositiveFloat = 0.05
    """Least σ: a stage then weighs at most 1/(2·sigma_min²)."""
    sigma_max: PositiveFloat = 20.0
    """Largest σ."""
    lr: PositiveFloat = 5e-6
    """Peak learning rate of the model."""
    warmup_ratio: Share = 0.03
    """Share of all steps in which the learning rate rises linearly; then it falls as a cosine."""
    weight_decay: NonNegativeFloat = 0.0
    """AdamW weight decay."""
    max_grad_norm: PositiveFloat = 1.0
    """Gradients with a larger norm are scaled down to it."""
    epochs: PositiveInt = 2
    """Times every example is seen."""
    chains_per_batch: PositiveInt = 32
    """Chains in one optimizer step, each with all its examples."""
    micro_batch_tokens: PositiveInt = 16384
    """Most tokens, padding included, that a worker computes at a time; bounds memory only."""
    zero_stage: Literal[1, 2, 3] = 3
    """What ZeRO shards: optimizer state (1), also gradients (2), also weights (3)."""
    packing: bool = True
    """Compute the common prefixes of a chain's examples once; exact. Models that it does not fit train on
    separate examples, and the run says why."""
    gradient_checkpointing: bool = True
    """Compute activations twice instead of keeping them: less memory, about a third more work."""
    workers: PositiveInt = 2
    """Ray Train workers."""
    cpus_per_worker: PositiveInt = 1
    """CPUs reserved for each worker; also its number of torch threads."""
    use_gpu: bool = False
    """One GPU for each worker, bf16; otherwise CPU, fp32."""
    checkpoint_every_steps: NonNegativeInt = 0
    """Optimizer steps between checkpoints; 0 writes one at the end only."""
    num_to_keep: PositiveInt = 2
    """Checkpoints kept; older ones are deleted."""
    max_failures: NonNegativeInt = 2
    """Times the run goes on from its last checkpoint after a worker died."""

    @model_validator(mode="after")
    def _check(self) -> "TrainConfig":
        if not any(self.fixed_weights):
            raise ValueError("fixed_weights are all 0; give at least one stage some weight")
        if not all(self.sigma_min <= sigma <= self.sigma_max for sigma in self.sigma_init):
            raise ValueError("sigma_init must lie between sigma_min and sigma_max")
        if not self.stages or len(set(self.stages)) < len(self.stages):
            raise ValueError("stages must name at least one stage, and none twice")
        return self


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a finished training came to."""

    steps: int
    seconds: float
    """Wall clock, start of the workers included."""
    loss: float
    """L of the last global batch, in nats."""
    stage_losses: dict[str, float | None]
    """L_j of the last global batch; null for a stage it had no example of."""
    sigma: dict[str, float]
    examples: dict[str, int]
    """Training examples of each stage."""
    dropped_passages: int
    """Passages left out of training prompts that would have outgrown the context."""
    separate_because: str | None
    """Why the examples of a chain did not share their prefixes; None if they did."""
    student_dir: Path


def train(config: "RunConfig") -> TrainSummary:
    """Train the student on the step-wise examples; Ray must be running.

    Raises InputError before any worker starts if the model or the examples cannot be used, and
    StageError if training fails.
    """
    from steper_ray.training.data import stepwise_files

    check_model(config.train.model, "train.model")
    files = stepwise_files(config.stepwise_dir)
    check_storage(config)
    started = time.monotonic()
    outcome = _run(config, files)
    last = outcome.last
    return TrainSummary(
        steps=last.steps,
        seconds=time.monotonic() - started,
        loss=last.loss,
        stage_losses={"init": last.L_init, "exp": last.L_exp, "agg": last.L_agg},
        sigma={"init": last.sigma_init, "exp": last.sigma_exp, "agg": last.sigma_agg},
        examples=outcome.examples,
        dropped_passages=outcome.dropped_passages,
        separate_because=outcome.separate_because,
        student_dir=config.student_dir,
    )


def check_storage(config: "RunConfig") -> None:
    """Raises InputError if the run folder cannot hold the checkpoints and the student.

    A checkpoint has up to four fp32 numbers for each parameter (weight, master, Adam's two moments), and
    one more is being written while the oldest still stands. A model on the Hub is not looked at.
    """
    folder = config.dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"run.dir: cannot write to {folder}: {error.strerror}") from None
    parameters, size = model_size(config.train.model)
    if parameters is None or size is None:
        return
    needed = 16 * parameters * (config.train.num_to_keep + 1) + size
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"run.dir: {folder} has {free / 1e9:,.1f} GB free, training takes up to {needed / 1e9:,.1f} GB "
            f"for {config.train.num_to_keep + 1} checkpoints and the student; make room or lower "
            "train.num_to_keep"
        )


def read_corpus_version(chains_dir: Path) -> str:
    """The corpus that the chains were retrieved from; empty where no chains are at hand."""
    import pyarrow.parquet as pq

    for file in sorted(chains_dir.glob("*.parquet")):
        versions = pq.read_table(file, columns=["corpus_version"]).column(0)
        if len(versions):
            return str(versions[0].as_py())
    return ""


def _run(config: "RunConfig", files: Sequence[Path]) -> "WorkerOutcome":
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from steper_ray.training.worker import run_worker

    section = config.train
    task = worker_task(config, files)
    # Loosely typed: Ray annotates neither loops without an argument nor results of loops.
    loop: Any = partial(run_worker, task)
    trainer = TorchTrainer(
        loop,
        torch_config=TorchConfig(backend="nccl" if section.use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=section.workers,
            use_gpu=section.use_gpu,
            resources_per_worker={
                "CPU": section.cpus_per_worker,
                **({"GPU": 1} if section.use_gpu else {}),
            },
        ),
        run_config=ray.train.RunConfig(
            name=f"train-{_fingerprint(task)}",
            storage_path=str(config.dir.absolute() / "checkpoints"),
            failure_config=ray.train.FailureConfig(max_failures=section.max_failures),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=section.num_to_keep),
        ),
    )
    try:
        result: Any = trainer.fit()
    except ray.train.TrainingFailedError as error:
        failures = getattr(error, "worker_failures", {})
        for failure in (*failures.values(), error):
            if (cause := find_steper_error(failure)) is not None:
                raise cause from None
        first = next(iter(failures.values()), error)
        line = str(first).strip().splitlines()[-1]
        raise StageError(
            f"train: a worker failed: {line}; see {config.log_file('train')}"
        ) from error
    outcome: WorkerOutcome = result.return_value
    return outcome


def worker_task(config: "RunConfig", files: Sequence[Path]) -> "WorkerTask":
    """What the workers of a run are told; `files` are from `stepwise_files`."""
    from steper_ray.training.worker import WorkerTask

    section = config.train
    folder = Path(section.model).expanduser()
    return WorkerTask(
        stepwise_files=tuple(str(file.absolute()) for file in files),
        training_dir=str(config.metrics_file.parent.absolute()),
        student_dir=str(config.student_dir.absolute()),
        model=str(folder.absolute()) if folder.is_dir() else section.model,
        seed=config.run.seed,
        instruction=config.reasoning.instruction,
        max_prompt_tokens=config.reasoning.max_prompt_tokens,
        student_settings=student_settings(config.reasoning, read_corpus_version(config.chains_dir)),
        objective=section.objective,
        stages=section.stages,
        fixed_weights=section.fixed_weights,
        sigma_init=section.sigma_init,
        sigma_lr=section.sigma_lr,
        sigma_min=section.sigma_min,
        sigma_max=section.sigma_max,
        lr=section.lr,
        warmup_ratio=section.warmup_ratio,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        epochs=section.epochs,
        chains_per_batch=section.chains_per_batch,
        micro_batch_tokens=section.micro_batch_tokens,
        zero_stage=section.zero_stage,
        packing=section.packing,
        gradient_checkpointing=section.gradient_checkpointing,
        use_gpu=section.use_gpu,
        threads=section.cpus_per_worker,
        checkpoint_every_steps=section.checkpoint_every_steps,
        log=str(config.log_file("train").absolute()),
    )


def _fingerprint(task: "WorkerTask") -> str:
    """Twelve hex digits that change with the settings, the examples and the base student's files."""
    digest = hashlib.sha256(repr(task).encode())
    model = Path(task.model)
    for weights in sorted(model.iterdir()) if model.is_dir() else ():
        stat = weights.stat()
        digest.update(f"{weights.name} {stat.st_size} {stat.st_mtime_ns}".encode())
    for file in task.stepwise_files:
        with Path(file).open("rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()[:12]
