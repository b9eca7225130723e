"""Tables of a sweep's trials: `trials.parquet`, `trials.csv`, and values in short for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from steper_ray.files import new_file
from steper_ray.sweep.settings import Metric
from steper_ray.sweep.trial_files import Status, Trial, ability_names
from steper_ray.text import UNKNOWN


def table_rows(trials: Sequence[Trial], metric: Metric) -> list[dict[str, Any]]:
    """A flat row a trial."""
    abilities = ability_names(trials)
    return [
        {
            "trial": trial.number,
            **trial.point,
            "status": trial.status,
            metric: trial.metric,
            **{f"L_{ability}": trial.loss.get(ability) for ability in abilities},
            **{f"final_sigma_{ability}": trial.sigma.get(ability) for ability in abilities},
            "step": trial.step,
            "steps": trial.steps,
            "seconds": trial.seconds,
            "error": trial.error,
        }
        for trial in trials
    ]


def status_counts(trials: Sequence[Trial]) -> str:
    """Number of trials by how they ended, in words."""
    counts = {kind: sum(t.status == kind for t in trials) for kind in get_args(Status)[:-1]}
    return ", ".join(f"{count:,} {kind}" for kind, count in counts.items() if count)


def short(value: Any, digits: int = 4) -> str:
    """Text of a value for a table or a chart, numbers with `digits` digits."""
    if value is None:
        return UNKNOWN
    if isinstance(value, float):
        return f"{value:.{digits}g}"
    if isinstance(value, list | tuple):
        return ", ".join(short(part, digits) for part in value)
    return str(value)


def write_tables(folder: Path, trials: Sequence[Trial], metric: Metric) -> None:
    """Write `trials.parquet` and `trials.csv`; values that are not a single number or text become JSON."""
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
        *(
            f"{kind}_{ability}"
            for kind in ("L", "final_sigma")
            for ability in ability_names(trials)
        ),
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
    for name, write in (("trials.parquet", pq.write_table), ("trials.csv", pyarrow.csv.write_csv)):
        with new_file(folder / name, encoding=None) as file:
            write(table, file)
