"""Room on the disk for a training: checkpoints, students and training data, counted before it starts."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Final

from rich.filesize import decimal

from steper_ray.errors import InputError
from steper_ray.models.folder import model_shapes
from steper_ray.models.hub import Shapes
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.training.settings import LoraConfig, TrainConfig

NOT_ADAPTED: Final = ("embed", "lm_head", "wte", "wpe")
"""Parts of the names of matrices that get no adapter with `all-linear`: embeddings and the head."""


@dataclass(frozen=True, slots=True)
class Needed:
    """Bytes that a training takes on the disk."""

    checkpoints: int
    """How many there can be: those that are kept, and one that is being written."""
    checkpoint: int
    """Bytes of each."""
    students: int
    """How many there can be: candidates, one that is being written, and the result."""
    student: int
    """Bytes of each."""
    data: int = 0
    """Bytes of training data that are yet to be prepared."""

    @property
    def total(self) -> int:
        """Bytes of all of it."""
        return self.checkpoints * self.checkpoint + self.students * self.student + self.data


def needed_storage(settings: TrainConfig, hub: HubConfig = DEFAULTS) -> Needed | None:
    """What a training takes on the disk, without its data; None where the size of its model is not known.

    ZeRO-3, and training without ZeRO, write three fp32 numbers a trained weight: itself and Adam's two
    moments. Stages 1 and 2 write the weight once more as it is computed with. Frozen ones are not written.
    """
    shapes = model_shapes(settings.model, settings.revision, hub)
    return None if shapes is None else storage_of(settings, shapes)


def storage_of(settings: TrainConfig, shapes: Shapes) -> Needed:
    """What the training of a model with these weights takes on the disk; see `needed_storage`."""
    weights = sum(prod(shape) for shape, _ in shapes.values())
    trained = weights if settings.lora is None else adapter_weights(shapes, settings.lora)
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and settings.use_gpu)
    each = 12 + ((2 if bf16 else 4) if settings.zero_stage in (1, 2) else 0)
    candidates = settings.num_to_keep if settings.best_by == "em" else 1
    return Needed(
        # a conversion for other workers writes one twice
        checkpoints=settings.num_to_keep + (1 if isinstance(settings.workers, int) else 3),
        checkpoint=each * trained,
        students=candidates + (settings.validation_chains > 0) + 1,
        student=sum(size for _, size in shapes.values()),
    )


def adapter_weights(shapes: Shapes, lora: LoraConfig) -> int:
    """Weights of the adapters: r · (rows + columns) of each matrix that gets one."""

    def adapted(name: str, shape: Sequence[int]) -> bool:
        module = name.removesuffix(".weight")
        if len(shape) != 2 or module == name:
            return False
        if lora.target_modules == "all-linear":
            return not any(part in module for part in NOT_ADAPTED)
        return any(
            module == target or module.endswith(f".{target}") for target in lora.target_modules
        )

    return sum(
        lora.rank * sum(shape) for name, (shape, _) in shapes.items() if adapted(name, shape)
    )


def data_to_prepare(files: Iterable[Path]) -> int:
    """Bytes that training data takes which is yet to be made from examples: as many as their text.

    A token is four bytes, and some four of a text.
    """
    import pyarrow.parquet as pq

    heads = [pq.read_metadata(file) for file in files]
    return sum(
        head.row_group(group).total_byte_size
        for head in heads
        for group in range(head.num_row_groups)
    )


def folder_size(folders: Iterable[Path]) -> int:
    """Bytes of all files below folders, those that vanish meanwhile left out."""
    total = 0
    for folder in folders:
        for file in folder.rglob("*"):
            try:
                total += file.lstat().st_size
            except FileNotFoundError:
                continue
    return total


def check_storage(
    folder: Path, needed: Needed | None, *, there: int = 0, trials: int | None = None
) -> None:
    """Raises InputError if a folder cannot be written, or cannot hold what is needed.

    needed: by each training; None checks only that the folder can be written
    there:  bytes of it that are there already, of a training that is resumed
    trials: trials of a sweep at a time; the student of its best trial stays, and is copied at the end
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"run.dir: cannot write to {folder}: {error.strerror}") from None
    if needed is None:
        return
    total = needed.total - there
    if trials is not None:
        total = trials * needed.total + 2 * needed.student - there
    free = shutil.disk_usage(folder).free
    if free >= total:
        return
    parts = [
        f"{needed.checkpoints} checkpoints of {_gigabytes(needed.checkpoint)}",
        f"{needed.students} students of {_gigabytes(needed.student)}",
    ]
    if needed.data:
        parts.append(f"training data of {_gigabytes(needed.data)}")
    who, lower = "training takes", "train.num_to_keep"
    if trials is not None:
        who, lower = f"{trials} trials at a time take", "train.num_to_keep or sweep.concurrent"
        parts = [f"each {parts[0]}", *parts[1:], "and the best student twice"]
    raise InputError(
        f"run.dir: {folder} has {_gigabytes(free)} free, {who} up to {_gigabytes(total)}"
        f"{' more' if there else ''} ({', '.join(parts)}); make room or lower {lower}"
    )


def cost_of_a_death(settings: TrainConfig, folder: Path, needed: Needed | None) -> str:
    """One line: what is lost when a worker dies, and how long a checkpoint takes in a folder.

    The folder's speed is that of a file of 64 MiB, written and removed.
    """
    lost = f"at most {settings.checkpoint_every_minutes:g} minutes (train.checkpoint_every_minutes)"
    if settings.checkpoint_every_steps:
        steps = f"{settings.checkpoint_every_steps:,} steps (train.checkpoint_every_steps)"
        lost = f"{lost}, or {steps}" if settings.checkpoint_every_minutes else f"at most {steps}"
    elif not settings.checkpoint_every_minutes:
        lost = "all of it: no checkpoint is written before the end (train.checkpoint_every_minutes)"
    pause = ""
    if needed is not None:
        seconds = needed.checkpoint / _bytes_per_second(folder)
        pause = f"; a checkpoint of {decimal(needed.checkpoint)} takes some {seconds:,.1f} s here"
    return f"a dead worker costs {lost}{pause}"


def _bytes_per_second(folder: Path) -> float:
    """How fast a folder takes what is written."""
    content = os.urandom(1 << 20)
    started = time.monotonic()
    with tempfile.TemporaryFile(dir=folder) as file:
        for _ in range(64):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return 64 * len(content) / (time.monotonic() - started)


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
