"""Experiment trackers: TensorBoard, MLflow, Weights & Biases."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, Protocol

from steper_ray.errors import InputError


def check_trackers(trackers: Sequence[str]) -> None:
    """Check that the package of each tracker is installed, without importing it.

    Raises InputError for the first that is not, and for a name that is no tracker's.
    """
    for name in trackers:
        if name not in _REQUIREMENTS:
            known = ", ".join(_REQUIREMENTS)
            raise InputError(f"train.trackers: no tracker is called {name!r}; there are {known}")
        spec = find_spec(name)
        # A folder of that name (W&B makes one where it writes) also has a spec, without an origin.
        if spec is None or spec.origin is None:
            raise InputError(
                f"train.trackers: {name} is not installed; pip install {_REQUIREMENTS[name]}"
            )


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Arguments that a tracker is opened with; see `MetricsWriter`."""

    folder: Path
    step: int
    name: str
    settings: Mapping[str, Any]
    id: str | None
    """The tracker's id of the run to resume; None for a new run."""


class TrackedRun(Protocol):
    """The run at one tracker, open."""

    @property
    def id(self) -> str | None:
        """Id by which the tracker finds the run; None where the folder is enough."""

    def send(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoardRun:
    """Event files in `tensorboard`."""

    id = None

    def __init__(self, run: RunInfo) -> None:
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

    def __init__(self, run: RunInfo) -> None:
        from mlflow import MlflowClient

        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            address = (run.folder / "mlflow").resolve().as_uri()
        self._client = MlflowClient(address)
        self.id = run.id or self._begin(run)
        self._client.update_run(self.id, status="RUNNING")  # also where an earlier one has ended

    def _begin(self, run: RunInfo) -> str:
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

    def __init__(self, run: RunInfo) -> None:
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


OPEN_TRACKER: Final[Mapping[str, Callable[[RunInfo], TrackedRun]]] = {
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
