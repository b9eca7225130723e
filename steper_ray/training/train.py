"""The train stage: step-wise examples in, a student as a Hugging Face folder out, on Ray Train.

A run that stopped (a dead node, Ctrl-C) resumes from its last checkpoint when started again with the same
settings, base student and examples; with others it starts anew and says why (`resume.py`).
"""

import logging
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from steper_ray.errors import InputError
from steper_ray.files import new_folder
from steper_ray.models.folder import check_model
from steper_ray.models.hub import use_hub
from steper_ray.models.loading import load_model_config
from steper_ray.models.push import check_repo_name, push_folder
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.models.student_settings import student_identity
from steper_ray.ray_runtime.logs import launch
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.folder import RunFolder
from steper_ray.run.identity import Record, write_record
from steper_ray.run.lock import locked
from steper_ray.run.versions import (
    file_sizes,
    place_version,
    remove_old_versions,
    version_folder,
)
from steper_ray.selection.abilities import STEPER, AbilityScheme
from steper_ray.training.batches import hold_out
from steper_ray.training.lora import check_lora
from steper_ray.training.mix_data import MixData, prepare_mix
from steper_ray.training.preparation import Progress, is_prepared, prepare
from steper_ray.training.resume import (
    DONE_FILE,
    checkpoint_folder,
    find_checkpoints,
    finished_training,
    task_identity,
)
from steper_ray.training.settings import TrainConfig
from steper_ray.training.storage import (
    check_storage,
    data_to_prepare,
    folder_size,
    needed_storage,
)
from steper_ray.training.summary import TrainSummary
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.trackers import check_trackers
from steper_ray.training.trainer import run_workers
from steper_ray.training.training_data import TrainingData, check_examples
from steper_ray.training.worker import run_worker
from steper_ray.training.worker_spec import (
    CANDIDATES,
    WorkerOutcome,
    WorkerTask,
    candidate_dir,
    worker_task,
)

logger = logging.getLogger(__name__)


Score = Callable[[Path], float]
"""Exact match of the student in a folder, on questions that are not trained on."""


AddCard = Callable[[Path, TrainSummary], None]
"""Adds files (card, pictures) to the folder of a student."""


def train(
    settings: TrainConfig,
    *,
    examples: Path,
    out: Path,
    seed: int = 0,
    reasoning: ReasoningConfig | None = None,
    corpus_version: str = "",
    hub: HubConfig = DEFAULTS,
    scheme: AbilityScheme = STEPER,
    prepared: Path | None = None,
    on_prepared: Progress | None = None,
    score: Score | None = None,
    add_card: AddCard | None = None,
    callbacks: Sequence[Any] = (),
) -> TrainSummary:
    """Train a student on step-wise examples; Ray must be running.

    A finished run with the same settings, base student and examples is not repeated; its student keeps the
    RULES that it was trained by.

    examples:       folder of the examples' Parquet files
    out:            run folder: `student`, `training/`, `checkpoints/` and `logs/` are written to it
    reasoning:      how the student will be asked, and so trained; None takes the defaults
    corpus_version: of the corpus that the chains were retrieved from; the student's folder carries it
    scheme:         the abilities that the examples were selected with
    prepared:       folder that keeps prepared training data (`preparation.py`); None keeps it in `out`
    on_prepared:    told how many of how many blocks of it are done
    score:          needed for `best_by: em`
    add_card:       called before the student's folder takes its final name
    callbacks:      Ray Train's; they are told of each validation, which then has a checkpoint too

    Raises InputError before any worker starts if the model or the examples cannot be used, or if another
    command trains to `out`, and StageError if training fails.
    """
    check_settings(settings)
    if settings.best_by == "em" and score is None:
        raise InputError("train.best_by: em compares students by `score`; pass it to train()")
    folder = RunFolder(out, out)
    with locked(folder.training):
        task = worker_task(
            settings,
            stepwise_files(examples),
            out=out,
            seed=seed,
            reasoning=reasoning or ReasoningConfig(),
            corpus_version=corpus_version,
            hub=hub,
            scheme=scheme,
            report_validations=bool(callbacks),
        )
        identity = task_identity(task)
        summary, changed = finished_training(folder, identity)
        if summary is None:
            prepared = prepared or folder.prepared
            _check_room(task, folder, identity, prepared)
            started = time.monotonic()
            task = prepare_data(task, prepared, on_prepared)
            checkpoints = find_checkpoints(folder, identity, changed)
            with launch(folder.log("train")) as log:
                outcome = run_workers(
                    task, run_worker, storage=checkpoints, log=log, callbacks=callbacks
                )
                loss, step = _best_candidate(settings, outcome, folder.training, score)
                summary = _summarize(task, outcome, loss, step, time.monotonic() - started)
                _place_student(folder, summary, add_card)
            files = file_sizes(folder.student)
            values = {**identity, "summary": asdict(summary), "files": files}
            write_record(folder.training / DONE_FILE, values)
        if settings.push_to_hub is not None:
            push_folder(folder.student, settings.push_to_hub, kind="model")
    return summary


def _check_room(task: WorkerTask, folder: RunFolder, identity: Record, prepared: Path) -> None:
    """Raises InputError if the disk has no room for what the training will write.

    prepared: folder that keeps prepared training data
    """
    needed = needed_storage(task.train, task.hub)
    if needed is not None and not is_prepared(task, prepared):
        needed = replace(needed, data=data_to_prepare(map(Path, task.stepwise_files)))
    resumed, _ = checkpoint_folder(folder, identity)
    there = folder_size([resumed, folder.training / CANDIDATES])
    check_storage(folder.root, needed, there=there)


def prepare_data(task: WorkerTask, parent: Path, on_prepared: Progress | None = None) -> WorkerTask:
    """The task with its training data prepared, below `parent`, and checked (`check_data`)."""
    folder, mix = prepare(task, parent, on_prepared), prepare_mix(task, parent)
    task = replace(task, prepared=str(folder), prepared_mix="" if mix is None else str(mix))
    check_data(folder, task)
    return task


def check_data(folder: Path, task: WorkerTask) -> None:
    """Raises InputError for training data that the model cannot take, or that holds out too little."""
    train = task.train
    use_hub(task.hub)
    config = load_model_config(train.model, task.hub, train.revision).get_text_config()
    data = TrainingData(folder)
    abouts = [data.about]
    if task.prepared_mix:
        abouts.append(MixData(Path(task.prepared_mix)).about)
    for about in abouts:
        check_examples(
            about,
            vocabulary=config.vocab_size,
            positions=getattr(config, "max_position_embeddings", sys.maxsize),
        )
    hold_out(data, train.validation_chains)


def check_settings(settings: TrainConfig) -> None:
    """Raises InputError for settings that this machine cannot carry out."""
    check_model(settings.model, "train.model", settings.revision)
    check_trackers(settings.trackers)
    check_lora(settings.lora)
    if settings.push_to_hub is not None:
        check_repo_name(settings.push_to_hub, "train.push_to_hub")


def _best_candidate(
    settings: TrainConfig, outcome: WorkerOutcome, training_dir: Path, score: Score | None
) -> tuple[float, int]:
    """(validation loss, step) of the student to export."""
    if settings.best_by == "loss" or len(outcome.candidates) == 1:
        return outcome.candidates[0]
    assert score is not None
    em_of = {
        (loss, step): score(candidate_dir(training_dir, step)) for loss, step in outcome.candidates
    }
    # Of equal ones the first, which has the lower loss.
    return max(outcome.candidates, key=lambda candidate: em_of[candidate])


def _summarize(
    task: WorkerTask, outcome: WorkerOutcome, loss: float, step: int, seconds: float
) -> TrainSummary:
    """loss, step: of the student to export"""
    last = outcome.last
    return TrainSummary(
        steps=step,
        planned_steps=last.steps,
        seconds=seconds,
        loss=last.loss,
        ability_losses=last.L,
        validation_loss=loss if outcome.validated else None,
        sigma=last.sigma,
        clipped_share=last.clipped_share,
        chains=outcome.chains,
        examples=outcome.examples,
        input_tokens=outcome.input_tokens,
        supervised_tokens=outcome.supervised_tokens,
        dropped_passages=outcome.dropped_passages,
        separate_because=outcome.separate_because,
        base_commit=task.base_model.get("commit", ""),
    )


def _place_student(folder: RunFolder, summary: TrainSummary, add_card: AddCard | None) -> None:
    """Make the best candidate the newest student, whole and with its card, and remove the candidates.

    A student that was there stays until the next one is made, and as long as a server holds it.
    """
    remove_old_versions(folder.student)
    candidate = candidate_dir(folder.training, summary.steps)
    version = version_folder(folder.student, student_identity(candidate))
    with new_folder(version) as student:
        shutil.copytree(candidate, student, dirs_exist_ok=True)
        logger.info("student of step %d → %s", summary.steps, version)
        if add_card is not None:
            add_card(student, summary)
    place_version(folder.student, version)
    shutil.rmtree(folder.training / CANDIDATES)
