"""The record of a training run: a JSON line a step, and the same for the trackers asked for.

Lines are flushed at once, so the file can be followed while training goes on, and a process that is
killed loses none. The file is the record; a tracker (TensorBoard, MLflow, Weights & Biases) shows
it. Where MLflow and W&B send to is said by their own environment variables (MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, WANDB_API_KEY, WANDB_MODE, WANDB_PROJECT, …), read in this process.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steper_ray.files import write_whole
from steper_ray.training.settings import Tracker
from steper_ray.training.trackers import OPEN_TRACKER, RunInfo, TrackedRun

METRICS_FILE: Final = "metrics.jsonl"


TRACKED_FILE: Final = "tracked.json"
"""Beside the metrics: the ids of the run at the trackers, and the last step they were sent."""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One line of the metrics file."""

    step: int
    """Optimizer step, counted from 1."""
    steps: int
    epoch: int
    """Counted from 1."""
    loss: float
    L_init: float | None
    L_exp: float | None
    L_agg: float | None
    perplexity_init: float | None
    """exp L_j, teacher-forced."""
    perplexity_exp: float | None
    perplexity_agg: float | None
    accuracy_init: float | None
    """Share of the target tokens that were the likeliest, teacher-forced; mean over the examples."""
    accuracy_exp: float | None
    accuracy_agg: float | None
    sigma_init: float
    """σ after this step's update."""
    sigma_exp: float
    sigma_agg: float
    lr: float
    grad_norm: float
    """Before clipping, over the model's parameters only."""
    tokens_per_second: float
    """Prompt and target tokens of the global batch, without padding."""
    examples_per_second: float
    mfu: float | None
    """Model FLOPs utilisation, see `steper_ray.training.flops`; null on CPUs."""
    peak_memory_gib: float
    """Most that rank 0 has held so far: of its GPU, else of its process."""
    examples: int
    seconds: float
    """Of this step, validation left out."""
    validation_loss: float | None = None
    """Mean of L_j over the held-out chains, without σ; null where the step was not validated."""
    validation_init: float | None = None
    validation_exp: float | None = None
    validation_agg: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The names and values, in order."""
        return {name: getattr(self, name) for name in self.__slots__}


class MetricsWriter:
    """Rank 0's record of the run: a JSON line a step, and each tracker.

    Where training goes on from a step, the trackers' runs go on too. Lines after that step are
    removed first: they will be written again. TensorBoard drops such points itself; MLflow and W&B
    cannot take a point back, so steps that they were sent before are not sent again.

    folder: of metrics.jsonl; files of the trackers go below it
    step: optimizer step that training goes on from, 0 where it begins
    run: the run's name at the trackers; "" lets them make one up
    settings: what the run was configured with, nested or not; sent once, where the run begins
    """

    def __init__(
        self,
        folder: Path,
        step: int,
        *,
        trackers: Sequence[Tracker] = ("tensorboard",),
        run: str = "",
        settings: Mapping[str, Any] = {},
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        file, tracked_file = folder / METRICS_FILE, folder / TRACKED_FILE
        lines = _whole_lines(file) if step and file.exists() else []
        steps = [json.loads(line)["step"] for line in lines]
        ids: dict[str, str] = {}
        sent = max(step, *steps, 0)
        if step and tracked_file.exists():
            tracked = json.loads(tracked_file.read_text(encoding="utf-8"))
            ids, sent = tracked["ids"], max(sent, tracked["step"])
        self._runs: list[tuple[TrackedRun, int]] = []
        """Each with the last step that it keeps from before."""
        for name in dict.fromkeys(trackers):
            kept = sent if name in ids else 0
            opened = OPEN_TRACKER[name](RunInfo(folder, step, run, settings, ids.get(name)))
            self._runs.append((opened, kept))
            if opened.id is not None:
                ids[name] = opened.id
        # Before the lines go: they are what tells how far the trackers were sent.
        if ids:
            write_whole(tracked_file, json.dumps({"ids": ids, "step": sent}) + "\n")
        else:
            tracked_file.unlink(missing_ok=True)
        kept_lines = [line for line, at in zip(lines, steps, strict=True) if at <= step]
        write_whole(file, "".join(f"{line}\n" for line in kept_lines))
        self._lines = file.open("a", encoding="utf-8")

    def write(self, metrics: StepMetrics) -> None:
        """Record one step; what is None has no point at the trackers."""
        values = metrics.as_dict()
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()
        numbers = {
            f"train/{name}": value
            for name, value in values.items()
            if isinstance(value, int | float) and name not in ("step", "steps")
        }
        for run, kept in self._runs:
            if metrics.step > kept:
                run.send(numbers, metrics.step)

    def close(self) -> None:
        """Write what is left, and end the trackers' runs."""
        self._lines.close()
        for run, _ in self._runs:
            run.close()


def _whole_lines(file: Path) -> list[str]:
    """The lines that end; a crash of the machine can cut the last one short."""
    return file.read_text(encoding="utf-8").split("\n")[:-1]
