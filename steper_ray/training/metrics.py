"""The record of a training run: a JSON line a step, and the same for the configured trackers.

Lines are flushed at once, so the file can be followed during training, and a process that is killed loses
none. The file is the record; a tracker (TensorBoard, MLflow, Weights & Biases) shows
it. Where MLflow and W&B send to is said by their own environment variables (MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, WANDB_API_KEY, WANDB_MODE, WANDB_PROJECT, …), read in this process.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any, Final

from steper_ray.files import write_whole
from steper_ray.training.settings import Tracker
from steper_ray.training.tracker_feed import CLOSING_SECONDS, TrackerFeed
from steper_ray.training.trackers import DROPS_POINTS, TRACKERS, RunInfo

METRICS_FILE: Final = "metrics.jsonl"


TRACKED_FILE: Final = "tracked.json"
"""Beside the metrics: the ids of the run at the trackers, and the last step that each was sent."""


BY_ABILITY: Final = ("L", "perplexity", "accuracy", "sigma", "validation")
"""Fields of `StepMetrics` with a value for each ability: `L` becomes the columns `L_init`, `L_exp` …"""


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One line of the metrics file; in dictionaries by ability, None is an ability without an example."""

    step: int
    """Optimizer step, counted from 1."""
    steps: int
    epoch: int
    """Counted from 1."""
    loss: float
    """L, and that of `train.mix` times its weight."""
    mix_loss: float | None
    """Mean of the token-mean losses of the rows of `train.mix`, in nats; None without one."""
    L: dict[str, float | None]
    """L_j, in nats."""
    perplexity: dict[str, float | None]
    """exp L_j, teacher-forced."""
    accuracy: dict[str, float | None]
    """Share of the target tokens that were the likeliest, teacher-forced; mean over the examples."""
    sigma: dict[str, float]
    """σ after this step's update."""
    lr: float
    grad_norm: float
    """Before clipping, over the model's parameters only; of the gradient of L / Σ_j w_j, and of the mix."""
    clipped_share: float
    """Share of the steps so far whose gradient was scaled down to `train.max_grad_norm`."""
    tokens_per_second: float
    """As the examples have them: prompt and target tokens of the global batch, without padding."""
    computed_tokens_per_second: float
    """As they went through the model: the prefixes that the examples of a chain share once."""
    examples_per_second: float
    mfu: float | None
    """Model FLOPs utilisation, see `steper_ray.training.flops`; None on CPUs."""
    peak_memory_gib: float
    """Maximum that rank 0 has held so far: of its GPU, else of its process."""
    examples: int
    """Step-wise ones."""
    seconds: float
    """Of this step, without its validation."""
    validation_loss: float | None
    """Mean of L_j over the held-out chains, without σ; None where the step was not validated."""
    validation: dict[str, float | None]
    """L_j over the held-out chains."""

    def as_row(self) -> dict[str, Any]:
        """Flat columns and their values, in order: a dictionary by ability has a column for each."""
        row: dict[str, Any] = {}
        for name in self.__slots__:
            value = getattr(self, name)
            if name in BY_ABILITY:
                row |= {f"{name}_{ability}": number for ability, number in value.items()}
            else:
                row[name] = value
        return row

    @classmethod
    def from_row(cls, row: Mapping[str, Any], abilities: Sequence[str]) -> "StepMetrics":
        """The metrics whose `as_row` is `row`."""
        columns: dict[str, Any] = {
            name: {ability: row[f"{name}_{ability}"] for ability in abilities}
            for name in BY_ABILITY
        }
        values: dict[str, Any] = {name: columns.get(name, row.get(name)) for name in cls.__slots__}
        return cls(**values)


class MetricsWriter:
    """Rank 0's record of the run: a JSON line a step, and each tracker.

    Where training resumes from a step, the trackers' runs resume too. Lines after that step are
    removed first: they will be written again. TensorBoard drops such points itself; MLflow and W&B
    cannot take a point back, so steps that they were sent before are not sent again. Steps that a
    tracker was not sent, because it failed, are sent now.

    folder: of metrics.jsonl; files of the trackers go below it
    step: optimizer step that training resumes from, 0 where it begins
    run: the run's name at the trackers; "" lets them make one up
    settings: the run's configuration, nested or not; sent once, where the run begins
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
        file, self._tracked_file = folder / METRICS_FILE, folder / TRACKED_FILE
        lines = _whole_lines(file) if step and file.exists() else []
        steps = [json.loads(line)["step"] for line in lines]
        tracked: dict[str, Any] = {}
        if step and self._tracked_file.exists():
            tracked = json.loads(self._tracked_file.read_text(encoding="utf-8"))
        self._ids: dict[str, str] = tracked.get("ids", {})
        # what a version wrote that sent each step before the next one began
        all_sent = dict.fromkeys(self._ids, max(step, *steps, tracked.get("step", 0)))
        self._sent: dict[str, int] = tracked.get("sent", all_sent)
        for name in trackers:
            self._sent.setdefault(name, step)
        self._lock = Lock()
        # Before the lines go: they may be what tells how far the trackers were sent.
        if trackers:
            self._write_tracked()
        else:
            self._tracked_file.unlink(missing_ok=True)
        kept_lines = [line for line, at in zip(lines, steps, strict=True) if at <= step]
        write_whole(file, "".join(f"{line}\n" for line in kept_lines))
        self._lines = file.open("a", encoding="utf-8")
        self._feeds = []
        for name in dict.fromkeys(trackers):
            kept = min(self._sent[name], step) if name in DROPS_POINTS else self._sent[name]
            info = RunInfo(folder, kept, run, settings, self._ids.get(name))
            feed = TrackerFeed(name, TRACKERS[name](info), file, kept, self._record_sent)
            self._feeds.append(feed)

    def write(self, metrics: StepMetrics) -> None:
        """Record one step."""
        self._lines.write(json.dumps(metrics.as_row()) + "\n")
        self._lines.flush()
        for feed in self._feeds:
            feed.step_written(metrics.step)

    def close(self) -> None:
        """Flush the file, and end the trackers' runs; waits for them for a while."""
        self._lines.close()
        for feed in self._feeds:
            feed.end()
        deadline = time.monotonic() + CLOSING_SECONDS
        for feed in self._feeds:
            feed.wait(deadline)

    def _record_sent(self, name: str, id: str | None, step: int) -> None:
        """Write down how far a tracker was sent."""
        with self._lock:
            self._sent[name] = step
            if id is not None:
                self._ids[name] = id
            self._write_tracked()

    def _write_tracked(self) -> None:
        tracked = {"ids": self._ids, "sent": self._sent}
        write_whole(self._tracked_file, json.dumps(tracked) + "\n")


def _whole_lines(file: Path) -> list[str]:
    """The complete lines of a file; a crash of the machine can cut the last one short."""
    return file.read_text(encoding="utf-8").split("\n")[:-1]
