"""Candidates: the students of a training's best steps, as Hugging Face folders."""

import shutil
from pathlib import Path
from typing import Any

from steper_ray.training.lora import merge_adapters
from steper_ray.training.student import export_student, gather_weights
from steper_ray.training.worker_spec import WorkerTask, candidate_dir


def export_candidate(
    model: Any, task: WorkerTask, step: int, settings: dict[str, Any], *, rank: int
) -> None:
    """Write the student of a step; every rank takes part, rank 0 writes.

    settings: how the student is to be asked, from `student_settings`
    """
    weights = gather_weights(model, keep=rank == 0)
    if rank != 0:
        return
    if task.train.lora is not None:
        weights = merge_adapters(weights, task.train.lora)
    export_student(
        weights,
        model.generation_config,
        task.train.model,
        candidate_dir(Path(task.training_dir), step),
        settings,
        task.hub,
        task.train.revision,
    )


def remove_candidates(task: WorkerTask, steps: list[int], *, rank: int) -> None:
    """Remove the students of steps that better ones have displaced."""
    for step in steps if rank == 0 else ():
        shutil.rmtree(candidate_dir(Path(task.training_dir), step), ignore_errors=True)
