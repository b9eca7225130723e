"""Callbacks between trials and Tune: reports of validations, the ends of trials.

`ReportValidations` runs in the process of Ray Train's controller, `EndTrials` in that of the sweep.
"""

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback
from ray.tune.integration.ray_train import TuneReportCallback

from steper_ray.ray_runtime.placement import remove_orphaned_placement_groups
from steper_ray.sweep.trial_files import (
    DIVERGED_FILE,
    ERROR_FILE,
    OUTCOME_FILE,
    STOPPED_FILE,
    drop_bulk,
    trial_folder,
    write_json,
)

logger = logging.getLogger(__name__)


class ReportValidations(TuneReportCallback):
    """Report of each validation to Tune; checkpoints without a validation have no metric to report."""

    def __init__(self, *, ranked: bool, budget: Callable[[int], float]) -> None:
        """ranked: whether trials are judged by validation loss; otherwise Tune is told at the end only
        budget: data seen after so many validations, on the scale of ASHA's rungs
        """
        super().__init__()  # type: ignore[no-untyped-call]
        self._ranked, self._budget = ranked, budget

    def after_report(
        self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any
    ) -> None:
        """`metric` is the best validation loss so far, which is what the trial will be judged by."""
        values = metrics[0]
        if not self._ranked or values["validation_loss"] is None:
            return
        if not math.isfinite(values["best_loss"]):
            return
        reported = {name: values[name] for name in ("step", "steps")}
        told = {"metric": values["best_loss"], "budget": self._budget(values["validations"])}
        super().after_report(run_context, [{**reported, **told}], checkpoint)


class EndTrials(Callback):
    """Records each trial that the scheduler stopped or whose process died too often; frees what it held.

    Pickled with the experiment, so it holds nothing that belongs to a process.
    """

    def __init__(self, folder: Path) -> None:
        """folder: parent of the trials' folders"""
        self.folder = folder
        self.looked = 0.0

    def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Record a trial that was stopped; others have written themselves how they ended."""
        folder = trial_folder(self.folder, int(str(trial)))
        if not any((folder / name).is_file() for name in (OUTCOME_FILE, DIVERGED_FILE)):
            logger.info("trial %s was stopped by the scheduler", trial)
            write_json(folder / STOPPED_FILE, {})
            drop_bulk(folder, keep_student=False)

    def on_trial_error(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:  # noqa: ARG002
        """Record an error that the trial itself could not: the death of its process."""
        folder = trial_folder(self.folder, int(str(trial)))
        if not (folder / ERROR_FILE).is_file():
            lines = str(trial.get_error() or "its process died").strip().splitlines()
            write_json(folder / ERROR_FILE, {"error": lines[-1]})
        logger.warning("trial %s failed", trial)

    def on_step_end(self, iteration: int, trials: Any, **info: Any) -> None:  # noqa: ARG002
        """Once a second, give the next trials what the dead ones held; they would wait for it forever."""
        if time.time() - self.looked > 1:
            remove_orphaned_placement_groups()
            self.looked = time.time()
