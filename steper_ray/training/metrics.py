"""The record of a training run: a JSON line a step, and the same for the trackers asked for.

Lines are flushed at once, so the file can be followed while training goes on, and a process that is
killed loses none. The file is the record; a tracker (TensorBoard, MLflow, Weights & Biases) shows
it. Where MLflow and W&B send to is said by their own environment variables (MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_NAME, WANDB_API_KEY, WANDB_MODE, WANDB_PROJECT, …), read in this process.
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from steper_ray.errors import InputError
from steper_ray.files import write_whole

Tracker = Literal["tensorboard", "mlflow", "wandb"]

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


def check_trackers(trackers: Sequence[str]) -> None:
    """See that the package of each tracker is installed, without importing it.

    Raises InputError for the first that is not, and for a name that is no tracker's.
    """
    for name in trackers:
        if name not in _REQUIREMENTS:
            known = ", ".join(_REQUIREMENTS)
            raise InputError(f"train.trackers: no tracker is called {name!r}; there are {known}")
        spec = find_spec(name)
        # A folder of that name (W&B makes one where it writes) is found too, without an origin.
        if spec is None or spec.origin is None:
            raise InputError(
                f"train.trackers: {name} is not installed; pip install {_REQUIREMENTS[name]}"
            )


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
        self._runs: list[tuple[_TrackedRun, int]] = []
        """Each with the last step that it keeps from before."""
        for name in dict.fromkeys(trackers):
            kept = sent if name in ids else 0
            opened = _OPEN[name](_Run(folder, step, run, settings, ids.get(name)))
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


@dataclass(frozen=True, slots=True)
class _Run:
    """What a tracker is opened with; see `MetricsWriter`."""

    folder: Path
    step: int
    name: str
    settings: Mapping[str, Any]
    id: str | None
    """The tracker's id of the run to go on with; null where a new one begins."""


class _TrackedRun(Protocol):
    """The run at one tracker, open."""

    @property
    def id(self) -> str | None:
        """What the tracker finds the run by; None where the folder tells it."""

    def send(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoardRun:
    """Event files in `tensorboard`."""

    id = None

    def __init__(self, run: _Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(str(run.folder / "tensorboard"), purge_step=run.step + 1)
        if run.settings and not run.step:
            listing = json.dumps(run.settings, indent=2, default=str)
            self._board.add_text("settings", f"```\n{listing}\n```")

    def send(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def close(self) -> None:
        self._board.close()


class _MlflowRun:
    """A run at MLFLOW_TRACKING_URI; without it, in the folder `mlflow`.

    The folder is MLflow's file store: its database store needs SQLAlchemy, which mlflow-skinny does
    not bring. MLflow develops the file store no further and has to be told that it is meant; so has
    its viewer: `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri mlflow`.
    """

    def __init__(self, run: _Run) -> None:
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            address = (run.folder / "mlflow").resolve().as_uri()
        self._client = MlflowClient(address)
        self.id = run.id or self._begin(run)
        self._client.update_run(self.id, status="RUNNING")  # also where an earlier one has ended

    def _begin(self, run: _Run) -> str:
        from mlflow.entities import Param
        from mlflow.tracking.context.registry import resolve_tags

        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment_id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
            found = self._client.get_experiment_by_name(name)
            experiment_id = found.experiment_id if found else self._client.create_experiment(name)
        begun = self._client.create_run(
            experiment_id, run_name=run.name or None, tags=resolve_tags()
        )
        run_id: str = begun.info.run_id
        params = [Param(key, str(value)) for key, value in _flat(run.settings).items()]
        self._client.log_batch(run_id, params=params)
        return run_id

    def send(self, values: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self.id)


class _WandbRun:
    """A run of Weights & Biases; its files are in `wandb`, also those of WANDB_MODE=offline."""

    def __init__(self, run: _Run) -> None:
        import wandb

        # Output goes to the stage's log; W&B would wrap the streams once more.
        self._run = wandb.init(
            dir=run.folder,
            id=run.id,
            name=run.name or None,
            config=None if run.id else dict(run.settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", x_transaction_log_flush_interval=1.0),
        )
        self.id: str = self._run.id

    def send(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step, commit=True)

    def close(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # else its service process lives as long as this one


_OPEN: Final[Mapping[str, Callable[[_Run], _TrackedRun]]] = {
    "tensorboard": _TensorBoardRun,
    "mlflow": _MlflowRun,
    "wandb": _WandbRun,
}
_REQUIREMENTS: Final = {
    "tensorboard": "tensorboard",
    "mlflow": "'steper_ray[mlflow]'",
    "wandb": "'steper_ray[wandb]'",
}
"""What pip installs a tracker's package from; the package has the tracker's name."""


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level: `{"train": {"lr": 1}}` is `{"train.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _whole_lines(file: Path) -> list[str]:
    """The lines that end; a crash of the machine can cut the last one short."""
    return file.read_text(encoding="utf-8").split("\n")[:-1]
