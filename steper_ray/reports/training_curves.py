"""Curves of a training, losses and σ, read from `metrics.jsonl`."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.reports.drawing import ability_paints

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


MAX_CURVE_POINTS: Final = 300
"""Points that a curve is drawn with; longer ones are averaged down to them."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the optimizer steps, one point a step at most."""

    name: str
    paint: str
    steps: "NDArray[np.float64]"
    values: "NDArray[np.float64]"

    def shortened(self) -> "Curve":
        """At most MAX_CURVE_POINTS points, each the mean of its stretch of steps."""
        import numpy as np

        pieces = min(len(self.steps), MAX_CURVE_POINTS)
        steps, values = (
            np.array([piece.mean() for piece in np.array_split(array, pieces)])
            for array in (self.steps, self.values)
        )
        return Curve(self.name, self.paint, steps, values)

    def smoothed(self) -> "Curve":
        """The running mean over a twentieth of the points, half of them on either side."""
        import numpy as np

        reach = len(self.values) // 40
        sums = np.cumsum([0.0, *self.values])
        points = np.arange(len(self.values))
        starts = np.maximum(points - reach, 0)
        ends = np.minimum(points + reach + 1, len(self.values))
        means = (sums[ends] - sums[starts]) / (ends - starts)
        return Curve(self.name, self.paint, self.steps, means)

    @property
    def last(self) -> float:
        """The value at the end."""
        return float(self.values[-1])


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """Rows of `metrics.jsonl`."""

    rows: tuple[Mapping[str, Any], ...]
    """One row an optimizer step, ordered by step."""
    unreadable: int
    """Lines that are no JSON object with a step (a crash can cut a line short)."""

    @property
    def abilities(self) -> list[str]:
        """Abilities that the rows have losses of, in the order of the columns."""
        columns = dict.fromkeys(column for row in self.rows for column in row)
        return [column.removeprefix("L_") for column in columns if column.startswith("L_")]

    def curve(self, column: str, name: str, paint: str) -> Curve | None:
        """Values of a column over the steps, where they are finite numbers; None if none is."""
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
class AbilityCurves:
    """Curves of a training to draw."""

    losses: list[Curve]
    """One curve an ability; the total loss alone for a training without abilities."""
    by_ability: bool
    """Whether `losses` are those of abilities."""
    smooth: dict[str, Curve]
    """Running mean of each ability's loss."""
    sigmas: list[Curve]
    rests: dict[str, Curve]
    """√L of the running mean of each ability, where σ comes to rest."""


def ability_curves(training: TrainingCurves) -> AbilityCurves:
    """Losses of each ability with their σ, from the rows of a training."""
    import numpy as np

    paints = ability_paints(training.abilities)
    losses = [
        c for name, paint in paints.items() if (c := training.curve(f"L_{name}", name, paint))
    ]
    sigmas = [
        c for name, paint in paints.items() if (c := training.curve(f"sigma_{name}", name, paint))
    ]
    smooth = {loss.name: loss.shortened().smoothed() for loss in losses}
    rests = {
        name: Curve(name, loss.paint, loss.steps, np.sqrt(np.maximum(loss.values, 0.0)))
        for name, loss in smooth.items()
    }
    total = training.curve("loss", "loss", "student")
    return AbilityCurves(
        losses=losses or [curve for curve in (total,) if curve],
        by_ability=bool(losses),
        smooth=smooth,
        sigmas=[sigma for sigma in sigmas if sigma.name in rests],
        rests=rests,
    )


def is_number(value: Any) -> bool:
    """Whether a value of JSON is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
