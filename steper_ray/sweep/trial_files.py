"""Trials on disk: the files of a trial's folder, and a trial read from them.

A trial's folder is a run folder (`training/metrics.jsonl`, `student/`) with `point.json`, and at the end
`outcome.json`, `stopped.json`, `diverged.json` or `error.json`. These files alone are a trial's state, so
trials can be read at any time, and a sweep goes on from them.
"""

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, Final, Literal

from steper_ray.files import write_whole
from steper_ray.run.versions import remove_versions
from steper_ray.sweep.settings import Metric
from steper_ray.training.metrics import METRICS_FILE

POINT_FILE: Final = "point.json"


OUTCOME_FILE: Final = "outcome.json"


ERROR_FILE: Final = "error.json"


STOPPED_FILE: Final = "stopped.json"


DIVERGED_FILE: Final = "diverged.json"


Status = Literal["finished", "stopped", "diverged", "failed", "unfinished"]


WORST: Final[dict[Metric, float]] = {"loss": 1e9, "em": -1.0, "f1": -1.0}
"""The metric of a trial that diverged, for the searcher: worse than any other. TPE only ranks trials; it
ignores one that failed and one whose metric is no number, and would propose the like again."""


@dataclass(frozen=True, slots=True)
class Validation:
    """Losses of a trial on the held-out chains after a step."""

    step: int
    loss: float
    loss_of: dict[str, float | None]
    """L_j by ability."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial: its point, and its results so far."""

    number: int
    """Counted from 1."""
    point: dict[str, Any]
    status: Status
    """`stopped`: early, by the scheduler. `diverged`: its loss was no finite number."""
    metric: float | None
    """The value of `sweep.metric`; of a trial that did not finish, its best validation loss or None."""
    loss: dict[str, float | None]
    """Validation loss by ability, at the best validation."""
    sigma: dict[str, float | None]
    """σ by ability, after the last step."""
    step: int
    """Optimizer steps done."""
    steps: int | None
    """Optimizer steps planned."""
    seconds: float
    """Wall clock of a finished trial; of any other, the sum over its steps."""
    error: str | None
    folder: Path
    validations: list[Validation] = field(repr=False)
    curves: dict[str, list[tuple[int, float]]] = field(repr=False)
    """(step, value) of σ and L of each ability: `sigma_init`, `L_init`, …"""

    @property
    def best_so_far(self) -> list[float]:
        """The lowest validation loss up to each validation."""
        return list(accumulate((validation.loss for validation in self.validations), min))


def trial_folder(folder: Path, number: int) -> Path:
    """Run folder of a trial; `folder` is that of all trials of a sweep."""
    return folder / f"{number:04d}"


def read_trials(
    folder: Path, metric: Metric, *, ended: Mapping[int, Trial] | None = None
) -> list[Trial]:
    """Every trial that has begun, by number.

    ended: trials that were read after they had ended, by number; they are not read again
    """
    ended = ended or {}
    folders = sorted(path.parent for path in folder.glob(f"*/{POINT_FILE}"))
    return [ended.get(int(path.name)) or read_trial(path, metric) for path in folders]


def read_trial(folder: Path, metric: Metric) -> Trial:
    """One trial from its folder."""
    proposal = _read(folder / POINT_FILE) or {}
    outcome, failure = _read(folder / OUTCOME_FILE), _read(folder / ERROR_FILE)
    diverged = _read(folder / DIVERGED_FILE)
    rows = _lines(folder / "training" / METRICS_FILE)
    last = rows[-1] if rows else {}
    abilities = [name.removeprefix("L_") for name in last if name.startswith("L_")]
    validations = [
        Validation(
            row["step"],
            row["validation_loss"],
            {ability: row[f"validation_{ability}"] for ability in abilities},
        )
        for row in rows
        if row["validation_loss"] is not None and math.isfinite(row["validation_loss"])
    ]
    best = min(validations, key=lambda validation: validation.loss, default=None)
    value = best.loss if best is not None and metric == "loss" else None
    status: Status = "stopped" if (folder / STOPPED_FILE).is_file() else "unfinished"
    if outcome is not None:
        status, value = "finished", outcome["metric"]
    elif diverged is not None:
        status, failure = "diverged", diverged
    elif failure is not None:
        status = "failed"
    curves = [f"{kind}_{ability}" for kind in ("sigma", "L") for ability in abilities]
    return Trial(
        number=proposal["number"],
        point=proposal["point"],
        status=status,
        metric=value,
        loss=best.loss_of if best is not None else dict.fromkeys(abilities),
        sigma={ability: last.get(f"sigma_{ability}") for ability in abilities},
        step=last.get("step", 0),
        steps=last.get("steps"),
        seconds=outcome["seconds"] if outcome else sum(row["seconds"] for row in rows),
        error=failure["error"] if failure is not None and outcome is None else None,
        folder=folder,
        validations=validations,
        curves={
            name: [(row["step"], row[name]) for row in rows if row[name] is not None]
            for name in curves
        },
    )


def ability_names(trials: Sequence[Trial]) -> list[str]:
    """Abilities that the trials have metrics of, in the order of the metrics' columns."""
    return list(dict.fromkeys(ability for trial in trials for ability in trial.sigma))


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    whole = file.read_text(encoding="utf-8").split("\n")[:-1]  # the last line may be unfinished
    return [json.loads(line) for line in whole]


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object to a file, whole or not at all."""
    write_whole(file, json.dumps(values, ensure_ascii=False) + "\n", errors="replace")


def best_trial(trials: Sequence[Trial], metric: Metric) -> Trial | None:
    """The best finished trial, of equal ones the first; None if no trial finished."""
    finished = [
        t
        for t in trials
        if t.status == "finished" and t.metric is not None and math.isfinite(t.metric)
    ]
    sign = 1 if metric == "loss" else -1
    return min(finished, key=lambda t: (sign * (t.metric or 0.0), t.number), default=None)


def drop_bulk(folder: Path, *, keep_student: bool) -> None:
    """Delete an ended trial's checkpoints, and its student."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if not keep_student:
        remove_versions(folder / "student")
        shutil.rmtree(folder / "training" / "candidates", ignore_errors=True)


def keep_best_student(folder: Path, metric: Metric) -> None:
    """Delete the students of all finished trials but the best one.

    Of two trials that end at the same time both choose the same best one: outcomes are written before.
    """
    trials = read_trials(folder, metric)
    best = best_trial(trials, metric)
    for trial in trials:
        if trial.status == "finished" and trial is not best:
            drop_bulk(trial.folder, keep_student=False)


def outcome_of(metric: float, seconds: float, summary: Any) -> dict[str, Any]:
    """Content of a finished trial's `outcome.json`; `summary` is its TrainSummary."""
    return {"metric": metric, "seconds": seconds, "training": asdict(summary)}
