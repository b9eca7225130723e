"""Losses and σ of a training as charts, from `metrics.jsonl`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steper_ray.reports.charts import Curve, sigma_chart, write_training_plots
from steper_ray.schema import ABILITIES

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """What `metrics.jsonl` says."""

    rows: tuple[Mapping[str, Any], ...]
    """One an optimizer step, ordered by step."""
    unreadable: int
    """Lines that are no JSON object with a step (a crash can cut a line short)."""

    def curve(self, column: str, name: str, paint: str) -> Curve | None:
        """A column over the steps, where it holds a finite number; None if it never does."""
        import numpy as np

        points = [(row["step"], row[column]) for row in self.rows if is_number(row.get(column))]
        steps, values = np.array(points, dtype=np.float64).reshape(-1, 2).T
        return Curve(name, paint, steps, values) if points else None


def read_training(file: Path) -> TrainingCurves:
    """Read `metrics.jsonl`; of a step written twice (a resumed run) the last line counts."""
    by_step: dict[float, Mapping[str, Any]] = {}
    unreadable = 0
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict) and is_number(row.get("step")):
            by_step[row["step"]] = row
        else:
            unreadable += 1
    return TrainingCurves(tuple(by_step[step] for step in sorted(by_step)), unreadable)


@dataclass(frozen=True, slots=True)
class _Curves:
    """What is drawn of a training."""

    losses: list[Curve]
    """One an ability; of a training without abilities the loss alone."""
    staged: bool
    smooth: dict[str, Curve]
    """Running mean of each ability's loss."""
    sigmas: list[Curve]
    rests: dict[str, Curve]
    """The root of the running mean, where σ comes to rest."""


def curve_charts(training: TrainingCurves) -> _Curves:
    import numpy as np

    losses = [curve for s in ABILITIES if (curve := training.curve(f"L_{s}", s, s))]
    sigmas = [curve for s in ABILITIES if (curve := training.curve(f"sigma_{s}", s, s))]
    smooth = {loss.name: loss.shortened().smoothed() for loss in losses}
    rests = {
        name: Curve(name, loss.paint, loss.steps, np.sqrt(np.maximum(loss.values, 0.0)))
        for name, loss in smooth.items()
    }
    total = training.curve("loss", "loss", "student")
    return _Curves(
        losses=losses or [curve for curve in (total,) if curve],
        staged=bool(losses),
        smooth=smooth,
        sigmas=[sigma for sigma in sigmas if sigma.name in rests],
        rests=rests,
    )


def write_training_pictures(metrics_file: Path, folder: Path) -> list[Path]:
    """Draw a training's losses and its σ; returns the PNG files, none if there is nothing to draw."""
    curves = curve_charts(read_training(metrics_file))
    if not curves.losses:
        return []
    return write_training_plots(curves.losses, curves.sigmas, list(curves.rests.values()), folder)


def sigma_chart_of(metrics_file: Path) -> "Markup | None":
    """σ of a training beside where it comes to rest; None if it learned none."""
    curves = curve_charts(read_training(metrics_file))
    moved = any(len(set(sigma.values)) > 1 for sigma in curves.sigmas)
    return sigma_chart(curves.sigmas, list(curves.rests.values())) if moved else None


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
