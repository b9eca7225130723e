"""What is left of each trial on disk, and the sweep's table made of it.

A trial's folder is a run folder (`training/metrics.jsonl`, `student/`), with `point.json`, and at its end
`outcome.json` or `error.json`. Nothing else is kept anywhere, so the table can be made at any time.
"""

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, get_args

from steper_ray.files import write_whole
from steper_ray.schema import ABILITIES
from steper_ray.sweep.settings import Metric
from steper_ray.training.metrics import METRICS_FILE

POINT_FILE: Final = "point.json"


OUTCOME_FILE: Final = "outcome.json"


ERROR_FILE: Final = "error.json"


STOPPED_FILE: Final = "stopped.json"


Status = Literal["finished", "stopped", "failed", "unfinished"]


@dataclass(frozen=True, slots=True)
class Validation:
    """One validation of a trial."""

    step: int
    loss: float
    loss_of: dict[str, float | None]
    """L_j over the held-out chains."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A trial, as far as it came."""

    number: int
    """Counted from 1."""
    point: dict[str, Any]
    status: Status
    """`stopped`: early, by the scheduler."""
    metric: float | None
    """What trials are ranked by; of one that did not finish, its best validation loss if that is it."""
    loss: dict[str, float | None]
    """Validation loss of each ability where it was best."""
    sigma: dict[str, float | None]
    """σ at the end."""
    step: int
    """Optimizer steps done."""
    steps: int | None
    """Optimizer steps planned."""
    seconds: float
    """Wall clock of a finished trial; of another, the sum of its steps."""
    error: str | None
    folder: Path
    validations: list[Validation] = field(repr=False)
    curves: dict[str, list[tuple[int, float]]] = field(repr=False)
    """(step, value) of σ and L of each ability: `sigma_init`, `L_init`, …"""


def trial_folder(folder: Path, number: int) -> Path:
    """Run folder of a trial; `folder` is that of all trials of a sweep."""
    return folder / f"{number:04d}"


def read_trials(
    folder: Path, metric: Metric, *, known: Mapping[int, Trial] | None = None
) -> list[Trial]:
    """Every trial that has begun, by number; `known` ones are not read again."""
    known = known or {}
    places = sorted(path.parent for path in folder.glob(f"*/{POINT_FILE}"))
    return [known.get(int(place.name)) or read_trial(place, metric) for place in places]


def read_trial(folder: Path, metric: Metric) -> Trial:
    """One trial from its folder."""
    begun = _read(folder / POINT_FILE) or {}
    outcome, failed = _read(folder / OUTCOME_FILE), _read(folder / ERROR_FILE)
    rows = _lines(folder / "training" / METRICS_FILE)
    validations = [
        Validation(
            row["step"],
            row["validation_loss"],
            {ability: row[f"validation_{ability}"] for ability in ABILITIES},
        )
        for row in rows
        if row["validation_loss"] is not None and math.isfinite(row["validation_loss"])
    ]
    best = min(validations, key=lambda one: one.loss, default=None)
    status: Status = "stopped" if (folder / STOPPED_FILE).is_file() else "unfinished"
    if outcome is not None:
        status, value = "finished", outcome["metric"]
    else:
        status = "failed" if failed is not None else status
        value = best.loss if best is not None and metric == "loss" else None
    last = rows[-1] if rows else {}
    names = [f"{kind}_{ability}" for kind in ("sigma", "L") for ability in ABILITIES]
    return Trial(
        number=begun["number"],
        point=begun["point"],
        status=status,
        metric=value,
        loss=best.loss_of if best is not None else dict.fromkeys(ABILITIES),
        sigma={ability: last.get(f"sigma_{ability}") for ability in ABILITIES},
        step=last.get("step", 0),
        steps=last.get("steps"),
        seconds=outcome["seconds"] if outcome else sum(row["seconds"] for row in rows),
        error=failed["error"] if failed is not None and outcome is None else None,
        folder=folder,
        validations=validations,
        curves={
            name: [(row["step"], row[name]) for row in rows if row[name] is not None]
            for name in names
        },
    )


def _read(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return values


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    whole = file.read_text(encoding="utf-8").split("\n")[:-1]  # the last may be on its way
    return [json.loads(line) for line in whole]


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Whole or not at all."""
    write_whole(file, json.dumps(values, ensure_ascii=False) + "\n", errors="replace")


def best_trial(trials: Sequence[Trial], metric: Metric) -> Trial | None:
    """The best finished one, of equal ones the first."""
    finished = [
        t
        for t in trials
        if t.status == "finished" and t.metric is not None and math.isfinite(t.metric)
    ]
    sign = 1 if metric == "loss" else -1
    return min(finished, key=lambda t: (sign * (t.metric or 0.0), t.number), default=None)


def table_rows(trials: Sequence[Trial], metric: Metric) -> list[dict[str, Any]]:
    """A flat row a trial."""
    return [
        {
            "trial": trial.number,
            **trial.point,
            "status": trial.status,
            metric: trial.metric,
            **{f"L_{ability}": trial.loss[ability] for ability in ABILITIES},
            **{f"final_sigma_{ability}": trial.sigma[ability] for ability in ABILITIES},
            "step": trial.step,
            "steps": trial.steps,
            "seconds": trial.seconds,
            "error": trial.error,
        }
        for trial in trials
    ]


def status_counts(trials: Sequence[Trial]) -> str:
    """How many ended in which way, in words."""
    counts = {kind: sum(t.status == kind for t in trials) for kind in get_args(Status)[:3]}
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)


def short(value: Any, digits: int = 4) -> str:
    """A value where there is little room."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        return ", ".join(short(one, digits) for one in value)
    return str(value)


def write_tables(folder: Path, trials: Sequence[Trial], metric: Metric) -> None:
    """Write `trials.parquet` and `trials.csv`; values that are no single number or text as JSON."""
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    rows = table_rows(trials, metric)
    columns: dict[str, list[Any]] = {}
    for name in rows[0] if rows else ():
        values = [row[name] for row in rows]
        kinds = {type(value) for value in values if value is not None}
        if len(kinds - {int, float}) + bool(kinds & {int, float}) > 1 or kinds & {list, dict}:
            values = [None if value is None else json.dumps(value) for value in values]
        elif kinds == {int, float}:
            values = [None if value is None else float(value) for value in values]
        columns[name] = values
    text, real = ("status", "error"), ("seconds", metric)
    reals = (
        *real,
        *(f"{kind}_{ability}" for kind in ("L", "final_sigma") for ability in ABILITIES),
    )
    table = pa.table(
        {
            name: pa.array(
                values,
                pa.string() if name in text else pa.float64() if name in reals else None,
            )
            for name, values in columns.items()
        }
    )
    folder.mkdir(parents=True, exist_ok=True)
    for name, write in (("trials.parquet", pq.write_table), ("trials.csv", pyarrow.csv.write_csv)):
        partial = folder / f".{name}.{os.getpid()}.partial"
        try:
            write(table, partial)
            partial.replace(folder / name)
        finally:
            partial.unlink(missing_ok=True)


def drop_bulk(folder: Path, *, keep_student: bool) -> None:
    """Delete an ended trial's checkpoints, and its student."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    if not keep_student:
        shutil.rmtree(folder / "student", ignore_errors=True)
        shutil.rmtree(folder / "training" / "candidates", ignore_errors=True)


def keep_best_student(folder: Path, metric: Metric) -> None:
    """Delete the students of all finished trials but the best one.

    Two trials that end at the same time both come to the same one: outcomes are written before.
    """
    trials = read_trials(folder, metric)
    best = best_trial(trials, metric)
    for trial in trials:
        if trial.status == "finished" and trial is not best:
            drop_bulk(trial.folder, keep_student=False)


def outcome_of(metric: float, seconds: float, summary: Any) -> dict[str, Any]:
    """What a finished trial writes down; `summary` is its TrainSummary."""
    return {"metric": metric, "seconds": seconds, "training": asdict(summary)}
