"""Callbacks between trials and Tune: reports of validations, records of trials that Tune ended.

`ReportValidations` runs in the process of Ray Train's controller, `WriteEnds` in that of the sweep.
"""

import time
from pathlib import Path
from typing import Any, Final

from ray._raylet import PlacementGroupID
from ray.tune import Callback
from ray.tune.integration.ray_train import TuneReportCallback
from ray.util import remove_placement_group
from ray.util.placement_group import PlacementGroup

from steper_ray.sweep.trial_files import (
    ERROR_FILE,
    OUTCOME_FILE,
    STOPPED_FILE,
    drop_bulk,
    trial_folder,
    write_json,
)
from steper_ray.training.worker_spec import PLACEMENT_FILE

GRACE_S: Final = 5.0
"""From the end of a trial until its placement group is removed; a living controller would make another."""


def release(folder: Path) -> None:
    """Free the CPUs and GPUs of an ended trial's workers.

    Ray Train's own clean-up asks Ray's dashboard whether the controller is alive, and a cluster started for
    one command has no dashboard: the next trials would wait forever.
    """
    file = folder / "training" / PLACEMENT_FILE
    if file.is_file():
        name = PlacementGroupID.from_hex(file.read_text(encoding="utf-8"))
        remove_placement_group(PlacementGroup(name))
        file.unlink()


class ReportValidations(TuneReportCallback):
    """Report of each validation to Tune; checkpoints without a validation have no metric to report."""

    def __init__(self, *, ranked: bool) -> None:
        """ranked: whether trials are judged by validation loss; otherwise Tune is told at the end only"""
        super().__init__()  # type: ignore[no-untyped-call]
        self._ranked = ranked

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """`metric` is the best validation loss so far, which is what the trial will be judged by."""
        values = metrics[0]
        if not self._ranked or values["validation_loss"] is None:
            return
        reported = {name: values[name] for name in ("step", "steps", "validations")}
        best = {"metric": values["best_loss"]}
        super().after_report(run_context, [{**reported, **best}], checkpoint)


class WriteEnds(Callback):
    """Record of each trial that the scheduler stopped, or whose process died too often.

    Pickled with the experiment, so it holds nothing that belongs to a process.
    """

    def __init__(self, folder: Path) -> None:
        """folder: parent of the trials' folders"""
        self.folder = folder
        self.ended: list[tuple[float, Path]] = []
        """(time, folder) of trials that Tune ended, whose placement groups are not yet freed."""

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Record a trial that was stopped; finished trials have written their outcome themselves."""
        folder = trial_folder(self.folder, int(str(trial)))
        if not (folder / OUTCOME_FILE).is_file():
            write_json(folder / STOPPED_FILE, {})
            drop_bulk(folder, keep_student=False)
        self.ended.append((time.time(), folder))

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Record an error that the trial itself could not: the death of its process."""
        folder = trial_folder(self.folder, int(str(trial)))
        if not (folder / ERROR_FILE).is_file():
            lines = str(trial.get_error() or "its process died").strip().splitlines()
            write_json(folder / ERROR_FILE, {"error": lines[-1]})
        self.ended.append((time.time(), folder))

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:  # noqa: ARG002
        """Free placement groups once the trial's process and Ray Train's controller have ended."""
        late = [folder for at, folder in self.ended if time.time() - at > GRACE_S]
        for folder in late:
            release(folder)
        self.ended = [(at, folder) for at, folder in self.ended if folder not in late]
