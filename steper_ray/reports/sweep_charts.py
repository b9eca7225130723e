"""Charts of a sweep: parallel coordinates, score over a key, paths of σ, rungs of ASHA."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from steper_ray.reports.drawing import STAND_INS, bare_axes, markup
from steper_ray.sweep.trial_table import short

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes


BEST: Final = "student"


OTHER: Final = "muted"


STOPPED: Final = "other-0"


@dataclass(frozen=True, slots=True)
class Scale:
    """An axis: positions between 0 and 1 for the values of a key."""

    name: str
    values: Sequence[Any]
    """One value a trial; None for a trial without one."""
    log: bool = False
    categories: tuple[Any, ...] | None = None
    """For values that are not numbers, and for choices; evenly spaced."""

    def position(self, value: Any) -> float | None:
        """Position of a value, None of no value."""
        if value is None:
            return None
        if self.categories is not None:
            return self.categories.index(value) / max(1, len(self.categories) - 1)
        low, high = self._ends
        if high == low:
            return 0.5
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))

    @property
    def labels(self) -> list[tuple[float, str]]:
        """(position, text) of the labels beside the axis."""
        if self.categories is not None:
            return [(self.position(value) or 0.0, short(value, 3)) for value in self.categories]
        low, high = self._ends
        return (
            [(0.5, short(low, 3))] if low == high else [(0.0, short(low, 3)), (1.0, short(high, 3))]
        )

    @property
    def _ends(self) -> tuple[float, float]:
        values = [value for value in self.values if value is not None]
        return (min(values), max(values)) if values else (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One trial as the charts show it."""

    paint: str
    values: Sequence[Any]
    """One value a scale, in the order of the scales."""


def parallel_chart(scales: Sequence[Scale], lines: Sequence[Line]) -> "Markup":
    """A line a trial through all its values and its metric; a trial without a metric ends before."""
    figure, axes = bare_axes(STAND_INS, height=300, left=34, right=44, bottom=40, top=16)
    axes.grid(visible=False)
    for x, scale in enumerate(scales):
        axes.axvline(x, color=STAND_INS["rule"], linewidth=1.5)
        for height, text in scale.labels:
            axes.annotate(
                text,
                (x, height),
                xytext=(6, 0),
                textcoords="offset points",
                va="center",
                fontsize=11,
                color=STAND_INS["muted"],
                bbox={"facecolor": STAND_INS["paper"], "edgecolor": "none", "pad": 1.5},
                zorder=5,
            )
    for line in sorted(lines, key=lambda line: line.paint == BEST):
        heights = [scale.position(value) for scale, value in zip(scales, line.values, strict=True)]
        points = [(x, height) for x, height in enumerate(heights) if height is not None]
        axes.plot(
            [x for x, _ in points],
            [height for _, height in points],
            color=STAND_INS[line.paint],
            linewidth=2.6 if line.paint == BEST else 1.2,
            alpha=1.0 if line.paint == BEST else 0.55,
        )
    axes.set_xlim(-0.1, len(scales) - 1 + 0.1)
    axes.set_ylim(-0.06, 1.06)
    axes.set_yticks([])
    axes.set_xticks(range(len(scales)), [scale.name for scale in scales])
    return markup(figure, f"Parallel coordinates of {len(lines)} trials; the table has them too")


def against_chart(scale: Scale, metric: Scale, lines: Sequence[Line], index: int) -> "Markup":
    """The metric over one key, a dot a trial.

    index: of the key among the values of a line; the last value is the metric
    """
    from matplotlib.ticker import NullLocator

    figure, axes = bare_axes(STAND_INS, height=240, left=58, right=16)
    for line in lines:
        value, score = line.values[index], line.values[-1]
        if value is None or score is None:
            continue
        x = value if scale.categories is None else scale.categories.index(value)
        axes.plot(
            x,
            score,
            marker="o",
            markersize=9 if line.paint == BEST else 6,
            color=STAND_INS[line.paint],
            alpha=1.0 if line.paint == BEST else 0.7,
        )
    if scale.categories is not None:
        axes.set_xticks(range(len(scale.categories)), [short(v, 3) for v in scale.categories])
        axes.set_xlim(-0.5, len(scale.categories) - 0.5)
    elif scale.log:
        _few_log_ticks(axes, "x", [line.values[index] for line in lines])
    if metric.log:
        axes.set_yscale("log")
        _few_log_ticks(axes, "y", [line.values[-1] for line in lines])
        axes.yaxis.set_minor_locator(NullLocator())
    return markup(figure, f"{metric.name} over {scale.name}, a dot a trial")


def _few_log_ticks(axes: "Axes", which: str, values: Sequence[float | None]) -> None:
    """A logarithmic axis with its ends and their middle named, in plain numbers."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    numbers = [value for value in values if value is not None]
    low, high = min(numbers), max(numbers)
    ticks = [low] if low == high else [low, math.sqrt(low * high), high]
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    axis.set_minor_locator(NullLocator())
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([short(tick, 3) for tick in ticks]))


def sigma_paths_chart(
    ability: str,
    paint: str,
    paths: Sequence[Sequence[tuple[int, float]]],
    rests: Sequence[Sequence[tuple[int, float]]],
) -> "Markup":
    """σ of one ability over the steps, a line a trial from its own start; dashed each trial's √L."""
    figure, axes = bare_axes(STAND_INS, height=260, left=50, right=12)
    for path, dashed in [*((rest, True) for rest in rests), *((path, False) for path in paths)]:
        axes.plot(
            [step for step, _ in path],
            [value for _, value in path],
            color=STAND_INS[paint],
            linewidth=1 if dashed else 1.8,
            alpha=0.3 if dashed else 0.85,
            linestyle=(0, (4, 3)) if dashed else "-",
        )
    values = [value for path in (*paths, *rests) for _, value in path if value > 0]
    axes.set_ylim(min(values) * 0.85, max(values) * 1.15)
    _few_log_ticks(axes, "y", values)
    return markup(
        figure, f"Sigma of {ability} in {len(paths)} trials; dashed the square root of its loss"
    )


@dataclass(frozen=True, slots=True)
class Run:
    """The validations of a trial."""

    paint: str
    reached: Sequence[float]
    """Where it stood at each, on the scale of ASHA's rungs."""
    losses: Sequence[float]
    """Best validation loss up to each."""
    stopped: bool


def rungs_chart(runs: Sequence[Run], rungs: Sequence[int]) -> "Markup":
    """Best validation loss so far over the validations, a line a trial; a cross where one was stopped.

    rungs: where trials were compared
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = bare_axes(STAND_INS, height=280, left=58, right=12)
    for rung in rungs:
        axes.axvline(rung, color=STAND_INS["rule"], linewidth=2)
    for run in runs:
        color = STAND_INS[run.paint]
        axes.plot(run.reached, run.losses, color=color, linewidth=2.4 if run.paint == BEST else 1.4)
        marker = "X" if run.stopped else "o"
        axes.plot(run.reached[-1], run.losses[-1], marker=marker, markersize=8, color=color)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    _few_log_ticks(axes, "y", [loss for run in runs for loss in run.losses])
    return markup(figure, f"Best validation loss of {len(runs)} trials over their validations")
