"""Experiment trackers: TensorBoard, MLflow, Weights & Biases."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
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
    """What a tracker is told of a run; see `MetricsWriter`."""

    folder: Path
    sent: int
    """Last step that the tracker keeps from before."""
    name: str
    settings: Mapping[str, Any]
    id: str | None
    """The tracker's id of the run to resume; None for a new run."""


class TrackedRun(Protocol):
    """The run at one tracker. Whatever it does may raise what the tracker's library raises."""

    @property
    def id(self) -> str | None:
        """Id by which the tracker finds the run; None where the folder is enough."""

    def open(self) -> None:
        """Begin the run, or go on with it; also after something has failed."""

    def send(self, values: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoardRun:
    """Event files in `tensorboard`."""

    id = None

    def __init__(self, run: RunInfo) -> None:
        self._info, self._sent = run, run.sent
        self._board: Any = None

    def open(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if self._board is not None:
            with suppress(OSError):  # its thread ends, whether what it holds can be written or not
                self._board.file_writer.event_writer.close()
        self._board = SummaryWriter(
            str(self._info.folder / "tensorboard"), purge_step=self._sent + 1
        )
        if self._info.settings and not self._sent:
            listing = json.dumps(self._info.settings, indent=2, default=str)
            self._board.add_text("settings", f"```\n{listing}\n```")

    def send(self, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        self._sent = step

    def close(self) -> None:
        self._board.close()


class _MlflowRun:
    """A run at MLFLOW_TRACKING_URI; without it, in the folder `mlflow`.

    The folder is MLflow's file store: its database store needs SQLAlchemy, which mlflow-skinny does
    not bring. MLflow develops the file store no further and has to be told that it is meant; so has
    its viewer: `MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri mlflow`.
    """

    def __init__(self, run: RunInfo) -> None:
        self._info, self.id = run, run.id
        self._has_settings = run.id is not None
        self._client: Any = None

    def open(self) -> None:
        from mlflow import MlflowClient

        # it is tried again anyway: MLflow's own four minutes of trying would only hide that it fails
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
        address = os.environ.get("MLFLOW_TRACKING_URI")
        if not address:
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            address = (self._info.folder / "mlflow").resolve().as_uri()
        self._client = MlflowClient(address)
        if self.id is None:
            self.id = self._begin()
        if not self._has_settings:
            self._send_settings()
            self._has_settings = True
        self._client.update_run(self.id, status="RUNNING")  # also where an earlier one has ended

    def _begin(self) -> str:
        from mlflow.tracking.context.registry import resolve_tags

        experiment_id = os.environ.get("MLFLOW_EXPERIMENT_ID")
        if not experiment_id:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "Default")
            found = self._client.get_experiment_by_name(name)
            experiment_id = found.experiment_id if found else self._client.create_experiment(name)
        begun = self._client.create_run(
            experiment_id, run_name=self._info.name or None, tags=resolve_tags()
        )
        run_id: str = begun.info.run_id
        return run_id

    def _send_settings(self) -> None:
        from mlflow.entities import Param

        params = [Param(key, str(value)) for key, value in _flat(self._info.settings).items()]
        self._client.log_batch(self.id, params=params)

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
        self._info, self.id = run, run.id
        self._run: Any = None

    def open(self) -> None:
        import wandb

        # Output goes to the stage's log; W&B would wrap the streams once more.
        self._run = wandb.init(
            dir=self._info.folder,
            id=self.id,
            name=self._info.name or None,
            config=None if self.id else dict(self._info.settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(console="off", x_transaction_log_flush_interval=1.0),
        )
        self.id = self._run.id

    def send(self, values: Mapping[str, float], step: int) -> None:
        self._run.log(dict(values), step=step, commit=True)

    def close(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # else its service process lives as long as this one


TRACKERS: Final[Mapping[str, Callable[[RunInfo], TrackedRun]]] = {
    "tensorboard": _TensorBoardRun,
    "mlflow": _MlflowRun,
    "wandb": _WandbRun,
}


DROPS_POINTS: Final = ("tensorboard",)
"""Trackers that, opened again, drop the points behind a step."""


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
