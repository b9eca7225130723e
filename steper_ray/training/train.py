"""The train stage: step-wise examples in, a student as a Hugging Face folder out, on Ray Train.

A run that stopped (a dead node, Ctrl-C) resumes from its last checkpoint when started again with the same
settings, base student and examples; with others it starts anew and says why. The record of these
(`steper_ray.run.identity`) lies in the folder of the checkpoints, and with the finished student's summary.
"""

import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError, StageError, find_steper_error
from steper_ray.models.folder import check_model, model_identity, model_size, pinned
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.run.dependencies import OF_A_CHECKPOINT, training_identity
from steper_ray.run.identity import (
    RECORD_FILE,
    Record,
    because,
    differences,
    find_folder,
    read_record,
    write_record,
)

if TYPE_CHECKING:
    from steper_ray.reports.student_card import Card
    from steper_ray.run.config import RunConfig
    from steper_ray.training.worker_spec import WorkerOutcome, WorkerTask


DONE_FILE: Final = "done.json"


CARD_PACKAGES: Final = ("steper_ray", "ray", "torch", "transformers", "deepspeed")


@dataclass(frozen=True, slots=True)
class TrainSummary:
    """What a finished training came to."""

    steps: int
    """Of the exported student."""
    planned_steps: int
    """More than `steps` where an earlier student was the best, or training stopped early."""
    seconds: float
    """Wall clock, start of the workers included."""
    loss: float
    """L of the last global batch, in nats."""
    ability_losses: dict[str, float | None]
    """L_j of the last global batch; null for an ability it had no example of."""
    validation_loss: float | None
    """⅓ Σ L_j of the exported student over the held-out chains; null where none were."""
    sigma: dict[str, float]
    chains: int
    examples: dict[str, int]
    """Training examples of each ability."""
    input_tokens: int
    """Prompt and target tokens of all examples, every epoch counted."""
    supervised_tokens: int
    """Those of them that are targets."""
    dropped_passages: int
    """Passages left out of training prompts that would have outgrown the context."""
    separate_because: str | None
    """Why the examples of a chain did not share their prefixes; None if they did."""


def train(
    config: "RunConfig", *, prepared: Path | None = None, callbacks: Sequence[Any] = ()
) -> TrainSummary:
    """Train the student on the step-wise examples; Ray must be running.

    A finished run with the same settings, base student and examples is not repeated; its student keeps the
    RULES that it was trained by.

    prepared:  file with the examples prepared for these settings (`prepare_file`)
    callbacks: Ray Train's; they are told of each validation, which then has a checkpoint too

    Raises InputError before any worker starts if the model or the examples cannot be used, and
    StageError if training fails.
    """
    from steper_ray.models.push import check_repo_name, push_folder
    from steper_ray.training.tokenization import stepwise_files
    from steper_ray.training.trackers import check_trackers

    section = config.train
    check_model(section.model, "train.model", section.revision)
    check_trackers(section.trackers)
    if section.lora is not None and find_spec("peft") is None:
        raise InputError("train.lora: peft is not installed; pip install 'steper_ray[lora]'")
    if section.push_to_hub is not None:
        check_repo_name(section.push_to_hub, "train.push_to_hub")
    task = replace(
        worker_task(config, stepwise_files(config.folder.examples)),
        prepared=None if prepared is None else str(prepared),
        report_validations=bool(callbacks),
    )
    identity = task_identity(task)
    summary, changed = finished_training(config, identity)
    if summary is None:
        check_storage(config)
        started = time.monotonic()
        checkpoints = find_checkpoints(config, identity, changed)
        outcome = _run(config, task, checkpoints, callbacks)
        summary = _finish(config, task, outcome, time.monotonic() - started)
        values = {**identity, "summary": asdict(summary)}
        write_record(config.folder.metrics.with_name(DONE_FILE), values)
    if section.push_to_hub is not None:
        push_folder(config.folder.student, section.push_to_hub, kind="model")
    return summary


def finished_training(
    config: "RunConfig", identity: Record
) -> tuple[TrainSummary | None, list[str]]:
    """The summary of a finished training with this record, or None and how the finished one differs."""
    before = read_record(config.folder.metrics.with_name(DONE_FILE))
    if before is None or not config.folder.student.is_dir():
        return None, []
    summary = before.pop("summary")
    changed = differences(before, identity, ignore=OF_A_CHECKPOINT)
    return (None if changed else TrainSummary(**summary)), changed


def find_checkpoints(config: "RunConfig", identity: Record, changed: Sequence[str] = ()) -> Path:
    """The folder of the checkpoints to resume; a new one, with the record in it, where none fits.

    changed: how a finished training in this run folder differs
    Says in one line why a training starts anew where others are there.
    """
    parent = config.folder.root.absolute() / "checkpoints"
    folder, others = find_folder(parent, identity, "train-")
    if folder.is_dir():
        return folder
    reasons = list(changed) or (others[0][1] if others else [])
    if reasons:
        left = f"; checkpoints of {others[0][0]} remain" if others else ""
        print(f"  train  starts anew because {because(reasons)}{left}")
    write_record(folder / RECORD_FILE, identity)
    return folder


def _finish(
    config: "RunConfig", task: "WorkerTask", outcome: "WorkerOutcome", seconds: float
) -> TrainSummary:
    """Choose among the candidates, and put the best in place with its card and its pictures."""
    from steper_ray.reports.student_card import write_card
    from steper_ray.reports.training_curves import write_training_pictures
    from steper_ray.training.worker_spec import CANDIDATES, candidate_dir

    training_dir = config.folder.metrics.parent
    loss, step = _best(config, outcome)
    last = outcome.last
    summary = TrainSummary(
        steps=step,
        planned_steps=last.steps,
        seconds=seconds,
        loss=last.loss,
        ability_losses={"init": last.L_init, "exp": last.L_exp, "agg": last.L_agg},
        validation_loss=loss if outcome.validated else None,
        sigma={"init": last.sigma_init, "exp": last.sigma_exp, "agg": last.sigma_agg},
        chains=outcome.chains,
        examples=outcome.examples,
        input_tokens=outcome.input_tokens,
        supervised_tokens=outcome.supervised_tokens,
        dropped_passages=outcome.dropped_passages,
        separate_because=outcome.separate_because,
    )
    partial = config.folder.student.with_name("student.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(candidate_dir(str(training_dir), step), partial)
    for picture in write_training_pictures(config.folder.metrics, training_dir):
        shutil.copy(picture, partial)
    write_card(partial, _card(config, summary, task.base_model.get("commit", "")))
    shutil.rmtree(config.folder.student, ignore_errors=True)
    partial.rename(config.folder.student)
    shutil.rmtree(training_dir / CANDIDATES)
    return summary


def _best(config: "RunConfig", outcome: "WorkerOutcome") -> tuple[float, int]:
    """(validation loss, step) of the student to export."""
    from steper_ray.data.questions import load_questions
    from steper_ray.evaluation.answer import answer
    from steper_ray.evaluation.compare import evaluated_model
    from steper_ray.evaluation.summary import summarize
    from steper_ray.training.worker_spec import candidate_dir

    if config.train.best_by == "loss" or len(outcome.candidates) == 1:
        return outcome.candidates[0]
    questions = load_questions(config.questions, "dev", config.folder.inputs)[: config.eval.limit]
    training_dir = config.folder.metrics.parent
    em_of = {}
    for loss, step in outcome.candidates:
        folder = candidate_dir(str(training_dir), step)
        rows = answer(
            evaluated_model(config, str(folder)),
            questions,
            folder.with_name(f"{folder.name}-answers"),
            corpus=config.folder.corpus,
            log=config.folder.log("eval"),
        )
        em_of[loss, step] = summarize(rows).overall.em
    # Of equal ones the first, which has the lower loss.
    return max(outcome.candidates, key=lambda candidate: em_of[candidate])


def _card(config: "RunConfig", summary: TrainSummary, base_commit: str) -> "Card":
    from steper_ray.reports.student_card import Card

    reasoning, section = config.reasoning, config.train
    return Card(
        base_model=section.model,
        base_revision=base_commit,
        teacher=config.build.teacher,
        objective=section.objective,
        abilities=section.abilities,
        settings=section.model_dump(mode="json"),
        framework=reasoning.framework,
        passages_per_step=reasoning.passages_per_step,
        max_steps=reasoning.max_steps,
        max_prompt_tokens=reasoning.max_prompt_tokens,
        corpus_version=read_corpus_version(config.folder.chains),
        chains=summary.chains,
        examples=summary.examples,
        dropped_passages=summary.dropped_passages,
        steps=summary.steps,
        epochs=section.epochs,
        input_tokens=summary.input_tokens,
        supervised_tokens=summary.supervised_tokens,
        losses=summary.ability_losses,
        validation_loss=summary.validation_loss,
        validation_step=None if summary.validation_loss is None else summary.steps,
        sigma=summary.sigma,
        workers=section.workers,
        seconds=summary.seconds,
        versions={name: version(name) for name in CARD_PACKAGES},
    )


def check_storage(config: "RunConfig") -> None:
    """Raises InputError if the run folder cannot hold the checkpoints and the student.

    A checkpoint has up to four fp32 numbers for each parameter (weight, master, Adam's two moments), and
    one more is being written while the oldest still stands. A model on the Hub is not looked at.
    """
    folder = config.folder.root
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


def _run(
    config: "RunConfig", task: "WorkerTask", checkpoints: Path, callbacks: Sequence[Any]
) -> "WorkerOutcome":
    import ray.train
    from ray.train.torch import TorchConfig, TorchTrainer

    from steper_ray.training.worker import run_worker

    section = config.train
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
            name=checkpoints.name,
            storage_path=str(checkpoints.parent),
            failure_config=ray.train.FailureConfig(max_failures=section.max_restarts),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=section.num_to_keep),
            callbacks=list(callbacks),
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
            f"train: a worker failed: {line}; see {config.folder.log('train')}"
        ) from error
    outcome: WorkerOutcome = result.return_value
    return outcome


def worker_task(config: "RunConfig", files: Sequence[Path]) -> "WorkerTask":
    """What the workers of a run are told; `files` are from `stepwise_files`."""
    from steper_ray.training.worker_spec import WorkerTask

    folder = Path(config.train.model).expanduser()
    model = str(folder.absolute()) if folder.is_dir() else config.train.model
    revision = pinned(model, config.train.revision, config.hub)
    return WorkerTask(
        train=config.train.model_copy(update={"model": model, "revision": revision}),
        base_model=model_identity(model, revision, config.hub),
        stepwise_files=tuple(str(file.absolute()) for file in files),
        training_dir=str(config.folder.metrics.parent.absolute()),
        seed=config.run.seed,
        reasoning=complete_reasoning(config.reasoning),
        corpus_version=read_corpus_version(config.folder.chains),
        log=str(config.folder.log("train").absolute()),
        hub=config.hub,
    )


def task_identity(task: "WorkerTask") -> Record:
    """The record of the training that a task describes."""
    from steper_ray.training.tokenization import examples_digest

    return training_identity(
        task.train,
        task.reasoning,
        bf16=task.bf16,
        seed=task.seed,
        model=dict(task.base_model),
        examples=examples_digest([Path(file) for file in task.stepwise_files]),
        corpus_version=task.corpus_version,
    )
