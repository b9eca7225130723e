"""Charts of a training, losses and σ over the steps: as SVG for pages, as PNG for cards.

The PNGs have a title and named axes, since they stand alone.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.reports.drawing import (
    STAND_INS,
    WIDTH,
    bare_axes,
    light_paint,
    markup,
    write_picture,
)

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
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


def loss_chart(losses: Sequence[Curve]) -> "Markup":
    """Loss curves: the running mean, with the losses themselves faint behind it."""
    figure, axes = bare_axes(STAND_INS, height=280, right=46)
    smooth = _draw_losses(axes, STAND_INS, losses)
    return markup(figure, f"Training loss over the optimizer steps; at the end {_ends(smooth)}")


def sigma_chart(sigmas: Sequence[Curve], rests: Sequence[Curve]) -> "Markup":
    """σ of each ability, and dashed the √L where it comes to rest."""
    figure, axes = bare_axes(STAND_INS, height=280, right=46)
    solid, dashed = _draw_sigmas(axes, STAND_INS, sigmas, rests)
    return markup(
        figure,
        f"Sigma of each ability, at the end {_ends(solid)}; "
        f"dashed the square root of its loss, at the end {_ends(dashed)}",
    )


def write_training_plots(
    losses: Sequence[Curve], sigmas: Sequence[Curve], rests: Sequence[Curve], folder: Path
) -> list[Path]:
    """Write `losses.png` and `sigma.png` to `folder`; returns the files written.

    losses: in nats; sigmas, rests: σ of each ability and √L, where it comes to rest
    Without losses, or without sigmas, there is no such picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paint = light_paint()
    written = []
    if losses:
        note = "Cross-entropy of the target tokens, running mean"
        figure, axes = _titled_axes(paint, losses, "Training loss", note, "nats")
        _draw_losses(axes, paint, losses)
        written.append(write_picture(figure, paint, folder / "losses.png"))
    if sigmas:
        note = "Dashed: the square root of its loss, where it comes to rest"
        figure, axes = _titled_axes(paint, sigmas, "σ of each ability", note, "σ")
        _draw_sigmas(axes, paint, sigmas, rests)
        written.append(write_picture(figure, paint, folder / "sigma.png"))
    return written


def _draw_losses(axes: "Axes", paint: Mapping[str, str], losses: Sequence[Curve]) -> list[Curve]:
    """Draw the losses faintly, and their running means; returns the running means."""
    short = [loss.shortened() for loss in losses]
    for curve in short:
        if len(curve.values) >= 40:
            _draw(axes, paint, curve, linewidth=1, alpha=0.28)
    smooth = [curve.smoothed() for curve in short]
    for curve in smooth:
        _draw(axes, paint, curve)
    _scale(axes, [value for curve in short for value in curve.values])
    _name_ends(axes, paint, smooth)
    return smooth


def _draw_sigmas(
    axes: "Axes", paint: Mapping[str, str], sigmas: Sequence[Curve], rests: Sequence[Curve]
) -> tuple[list[Curve], list[Curve]]:
    """Draw σ solid and √L dashed; returns the curves as drawn, solid and dashed."""
    solid, dashed = [c.shortened() for c in sigmas], [c.shortened() for c in rests]
    for curve in dashed:
        _draw(axes, paint, curve, linewidth=1.4, dashed=True)
    for curve in solid:
        _draw(axes, paint, curve)
    _scale(axes, [value for curve in (*solid, *dashed) for value in curve.values])
    _name_ends(axes, paint, solid)
    return solid, dashed


def _titled_axes(
    paint: Mapping[str, str], curves: Sequence[Curve], title: str, note: str, unit: str
) -> "tuple[Figure, Axes]":
    """A chart that stands alone, with room at the right for the names of its curves."""
    from matplotlib.transforms import blended_transform_factory

    height, edge = 340, 16
    names = 14 + 9 * max(len(curve.name) for curve in curves)
    figure, axes = bare_axes(paint, height=height, left=72, right=max(46, names), bottom=50, top=58)
    axes.patch.set_visible(False)
    big: dict[str, Any] = {"fontsize": 15, "fontweight": "bold", "color": paint["ink"]}
    small: dict[str, Any] = {"fontsize": 12, "color": paint["muted"]}
    figure.text(edge / WIDTH, 1 - 23 / height, title, **big)
    figure.text(edge / WIDTH, 1 - 42 / height, note, **small)
    axes.set_xlabel("optimizer step", labelpad=6, **small)
    axes.set_ylabel(unit, **small)
    # At the edge, however wide the numbers are.
    at_edge = blended_transform_factory(figure.transFigure, axes.transAxes)
    axes.yaxis.set_label_coords((edge + 10) / WIDTH, 0.5, transform=at_edge)
    return figure, axes


def _draw(
    axes: "Axes",
    paint: Mapping[str, str],
    curve: Curve,
    *,
    linewidth: float = 2,
    alpha: float = 1,
    dashed: bool = False,
) -> None:
    axes.plot(
        curve.steps,
        curve.values,
        color=paint[curve.paint],
        linewidth=linewidth,
        alpha=alpha,
        linestyle=(0, (4, 3)) if dashed else "-",
        marker="o" if len(curve.steps) == 1 else "",
    )


def _scale(axes: "Axes", values: Sequence[float]) -> None:
    """y from zero, or logarithmic where the values span more than a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    low, high = min(values), max(values)
    if low > 0 and high > 10 * low:
        axes.set_yscale("log")
        axes.set_ylim(low * 0.8, high * 1.25)
        subs = (1.0,) if high > 1000 * low else (1.0, 2.0, 5.0)
        axes.yaxis.set_major_locator(LogLocator(subs=subs, numticks=12))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.set_ylim(min(0.0, low), high * 1.08 if high > 0 else 1.0)
        axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _name_ends(axes: "Axes", paint: Mapping[str, str], curves: Sequence[Curve]) -> None:
    """Names at the right ends of the curves, 16 points apart at least."""
    floor = -math.inf
    for curve in sorted(curves, key=lambda curve: curve.last):
        height = max(float(axes.transData.transform((0, curve.last))[1]), floor)
        floor = height + 16
        axes.annotate(
            curve.name,
            (1, height),
            xycoords=("axes fraction", "figure points"),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=12,
            fontweight="bold",
            color=paint[curve.paint],
        )


def _ends(curves: Sequence[Curve]) -> str:
    return ", ".join(f"{curve.name} {curve.last:.3g}" for curve in curves)
