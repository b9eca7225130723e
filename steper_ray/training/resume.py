"""Which earlier training a run resumes: the record of a training, its finished student, its checkpoints.

The record (`steper_ray.run.identity`) of the settings, base student and examples lies in the folder of the
checkpoints, and with the finished student's summary.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from steper_ray.run.dependencies import (
    OF_A_CHECKPOINT,
    OF_A_STUDENT,
    OF_SHARDS,
    training_identity,
)
from steper_ray.run.folder import RunFolder
from steper_ray.run.identity import (
    RECORD_FILE,
    Record,
    because,
    differences,
    find_folder,
    read_record,
    write_record,
)
from steper_ray.run.versions import file_sizes
from steper_ray.training.summary import TrainSummary
from steper_ray.training.worker_spec import WorkerTask

DONE_FILE: Final = "done.json"


def task_identity(task: WorkerTask) -> Record:
    """The record of the training that a task describes."""
    return training_identity(
        task.train,
        task.reasoning,
        bf16=task.bf16,
        seed=task.seed,
        model=dict(task.base_model),
        examples=task.examples,
        corpus_version=task.corpus_version,
        mix=task.mix,
    )


def finished_training(folder: RunFolder, identity: Record) -> tuple[TrainSummary | None, list[str]]:
    """The summary of a finished training with this record; or None, and how the finished one differs.

    A training whose student has lost files since is not finished, which is said in one line.
    """
    before = read_record(folder.training / DONE_FILE)
    if before is None or not folder.student.is_dir():
        return None, []
    summary, files = before.pop("summary"), before.pop("files", None)
    if files is not None and files != file_sizes(folder.student):
        print(f"  train  {folder.student} has lost files since it was trained: it is made again")
        return None, []
    changed = differences(before, identity, ignore=OF_A_CHECKPOINT)
    return (None if changed else TrainSummary(**summary)), changed


def checkpoint_folder(
    folder: RunFolder, identity: Record
) -> tuple[Path, list[tuple[Path, list[str]]]]:
    """The folder of a training's checkpoints, existing or new, and the others with how they differ.

    Another ZeRO stage or place of its states makes no other training, but for stage 0, which has no shards.
    """
    parent = folder.checkpoints.absolute()
    found = find_folder(parent, identity, "train-", ignore=(*OF_A_STUDENT, *OF_SHARDS))
    before = read_record(found[0] / RECORD_FILE)
    if before is None or 0 not in (_zero_stage(before), _zero_stage(identity)):
        return found
    return find_folder(parent, identity, "train-", ignore=OF_A_STUDENT)


def _zero_stage(record: Record) -> int:
    return int(record["checkpoint"]["zero_stage"])


def find_checkpoints(folder: RunFolder, identity: Record, changed: Sequence[str] = ()) -> Path:
    """The folder of the checkpoints to resume; a new one, with the record in it, where none fits.

    changed: how a finished training in this run folder differs
    Says in one line why a training starts anew despite existing checkpoints.
    """
    match, others = checkpoint_folder(folder, identity)
    if match.is_dir():
        return match
    reasons = list(changed) or (others[0][1] if others else [])
    if reasons:
        remain = f"; checkpoints of {others[0][0]} remain" if others else ""
        print(f"  train  starts anew because {because(reasons)}{remain}")
    write_record(match / RECORD_FILE, identity)
    return match
