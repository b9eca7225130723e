"""Candidates: the students of a training's best steps, as Hugging Face folders."""

import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from steper_ray.training.lora import ADAPTER, FACTOR, Adapter, merge_adapters
from steper_ray.training.student import export_student, gather_weights, load_weights
from steper_ray.training.worker_spec import CANDIDATES, WorkerTask, candidate_dir


def export_candidate(
    model: Any, task: WorkerTask, step: int, settings: dict[str, Any], *, rank: int
) -> None:
    """Write the student of a step; every rank takes part, rank 0 writes.

    settings: how the student is to be asked, from `student_settings`
    """
    train, hub = task.train, task.hub
    only = "" if train.lora is None else FACTOR
    weights, adapter = gather_weights(model, keep=rank == 0, only=only), None
    if rank != 0:
        return
    if train.lora is not None:
        adapter = Adapter(model.peft_config[ADAPTER], weights, train.model, train.revision)
        weights = merge_adapters(load_weights(train.model, hub, train.revision), adapter)
    export_student(
        weights,
        model.generation_config,
        train.model,
        candidate_dir(Path(task.training_dir), step),
        settings,
        hub,
        train.revision,
        adapter,
    )


def keep_candidates(task: WorkerTask, steps: Collection[int]) -> None:
    """Remove the students of all other steps; called by one rank.

    Only after a checkpoint that names no other is whole: what it names must be there when it is resumed.
    """
    kept = {candidate_dir(Path(task.training_dir), step).name for step in steps}
    for folder in (Path(task.training_dir) / CANDIDATES).glob("*"):
        if folder.name not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def has_candidate(task: WorkerTask, step: int) -> bool:
    """Whether the student of a step is there."""
    return candidate_dir(Path(task.training_dir), step).is_dir()
