"""The report's charts, as SVG markup, and the training's as pictures.

For the page matplotlib draws with stand-in colours, and each is then replaced by a CSS variable: one
drawing serves light and dark, in the page's own fonts. Text stays text. Charts are 460 points wide,
so that on a phone their letters can still be read. A picture stands alone, in a README or a model
card: it is drawn in the page's light colours, with a title and named axes.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.evaluation.summary import wilson_interval
from steper_ray.schema import ABILITIES

if TYPE_CHECKING:
    import numpy as np
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


WIDTH: Final = 460


CURVE_POINTS: Final = 300
"""Points a curve is drawn with; longer ones are averaged down to them."""


_PAINTS: Final = (
    "ink",
    "muted",
    "rule",
    "paper",
    "student",
    "base",
    "teacher",
    "other-0",
    "other-1",
    "other-2",
)


STAND_INS: Final = {
    name: f"#0a0b{number:02x}" for number, name in enumerate((*_PAINTS, *ABILITIES))
}
"""The stand-in colour of each CSS variable."""


@dataclass(frozen=True, slots=True)
class Bar:
    """A model's share of right answers in a group of questions."""

    paint: str
    """Name of the CSS variable that colours it."""
    share: float
    questions: int


@dataclass(frozen=True, slots=True)
class Curve:
    """A quantity over the optimizer steps, one point a step at most."""

    name: str
    paint: str
    steps: "NDArray[np.float64]"
    values: "NDArray[np.float64]"

    def shortened(self) -> "Curve":
        """At most CURVE_POINTS points, each the mean of its stretch of steps."""
        import numpy as np

        pieces = min(len(self.steps), CURVE_POINTS)
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
        places = np.arange(len(self.values))
        starts = np.maximum(places - reach, 0)
        ends = np.minimum(places + reach + 1, len(self.values))
        means = (sums[ends] - sums[starts]) / (ends - starts)
        return Curve(self.name, self.paint, self.steps, means)

    @property
    def last(self) -> float:
        """The value at the end."""
        return float(self.values[-1])


def exact_match_chart(groups: Mapping[str, Sequence[Bar]]) -> "Markup":
    """Bars in percent with 95 % Wilson intervals, one group for each hop count.

    groups: a bar a model, by the label of the group; without questions its place stays empty
    """
    paint = STAND_INS
    figure, axes = bare_axes(paint, height=290)
    models = max(len(bars) for bars in groups.values())
    width = 0.82 / models
    roomy = len(groups) * models <= 18
    for place, bars in enumerate(groups.values()):
        for index, bar in enumerate(bars):
            if not bar.questions:
                continue
            x = place + (index - (models - 1) / 2) * width
            low, high = (100 * end for end in wilson_interval(bar.share, bar.questions))
            axes.bar(x, 100 * bar.share, width * 0.88, color=paint[bar.paint])
            axes.vlines(x, low, 100 * bar.share, color=paint["paper"], linewidth=1, alpha=0.7)
            axes.vlines(x, 100 * bar.share, high, color=paint["muted"], linewidth=1)
            if roomy:
                axes.annotate(
                    f"{100 * bar.share:.0f}",
                    (x, high),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=11,
                    color=paint["ink"],
                )
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_ylim(0, 108)
    axes.set_yticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100%"])
    axes.set_xticks(range(len(groups)), list(groups))
    return markup(
        figure, "Bars of exact match in percent by model and hops; the table has them too"
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """A model's score with its interval, as shares."""

    name: str
    paint: str
    share: float
    low: float
    high: float


def interval_chart(marks: Sequence[Mark]) -> "Markup":
    """A dot and a line for each model, one below the other, in percent."""
    longest = max(len(mark.name) for mark in marks)
    figure, axes = bare_axes(STAND_INS, height=24 * len(marks) + 42, left=8 + 7 * longest, right=44)
    axes.grid(visible=False, axis="y")
    axes.grid(axis="x", color=STAND_INS["rule"], linewidth=1)
    for row, mark in enumerate(marks):
        color = STAND_INS[mark.paint]
        axes.hlines(row, 100 * mark.low, 100 * mark.high, color=color, linewidth=2)
        axes.plot(100 * mark.share, row, marker="o", markersize=7, color=color)
        axes.annotate(
            f"{100 * mark.share:.1f}",
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize=12,
            color=STAND_INS["ink"],
        )
    axes.set_ylim(len(marks) - 0.5, -0.5)
    axes.set_yticks(range(len(marks)), [mark.name for mark in marks])
    axes.set_xlim(0, 100)
    axes.set_xticks([0, 25, 50, 75, 100], ["0", "25", "50", "75", "100%"])
    named = ", ".join(f"{mark.name} {100 * mark.share:.1f}" for mark in marks)
    return markup(figure, f"Exact match in percent with 95 % intervals: {named}")


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
    """Write `losses.png` and `sigma.png` to `folder`: the charts of a training, to share.

    losses: in nats; sigmas, rests: σ of each ability and √L, where it comes to rest
    Without losses, or without sigmas, that picture is left out. Returns the files written.
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
    """Draw them; returns the running means."""
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
    """Draw them; returns the curves as drawn, solid and dashed."""
    solid, dashed = [c.shortened() for c in sigmas], [c.shortened() for c in rests]
    for curve in dashed:
        _draw(axes, paint, curve, linewidth=1.4, dashed=True)
    for curve in solid:
        _draw(axes, paint, curve)
    _scale(axes, [value for curve in (*solid, *dashed) for value in curve.values])
    _name_ends(axes, paint, solid)
    return solid, dashed


def bare_axes(
    paint: Mapping[str, str],
    *,
    height: int,
    left: int = 44,
    right: int = 8,
    bottom: int = 30,
    top: int = 12,
) -> "tuple[Figure, Axes]":
    """A bare chart: no frame, faint horizontal lines. Height and margins are in points."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
    box = (
        left / WIDTH,
        bottom / height,
        (WIDTH - left - right) / WIDTH,
        (height - bottom - top) / height,
    )
    axes = figure.add_axes(box)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(which="both", length=0, pad=6, labelsize=12, labelcolor=paint["muted"])
    axes.grid(axis="y", color=paint["rule"], linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


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
    place = blended_transform_factory(figure.transFigure, axes.transAxes)
    axes.yaxis.set_label_coords((edge + 10) / WIDTH, 0.5, transform=place)
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


def write_picture(figure: "Figure", paint: Mapping[str, str], file: Path) -> Path:
    """The drawing as a PNG, two pixels a point."""
    figure.savefig(file, dpi=144, facecolor=paint["paper"], metadata={"Software": None})
    return file


def light_paint() -> dict[str, str]:
    """The page's colours where it is light: the first block of its style sheet."""
    style = (
        resources.files(__package__)
        .joinpath("templates", "style.css.j2")
        .read_text(encoding="utf-8")
    )
    light = style[: style.index("}")]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))


def _ends(curves: Sequence[Curve]) -> str:
    return ", ".join(f"{curve.name} {curve.last:.3g}" for curve in curves)


def markup(figure: "Figure", label: str) -> "Markup":
    """The drawing for the page: real text, CSS colours, no metadata.

    The same drawing gives the same bytes (ids are hashes of the label and of what they name).
    """
    import matplotlib
    from markupsafe import Markup

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        bare = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=bare)
    drawn = buffer.getvalue()
    view = re.search(r'<svg[^>]*viewBox="([\d. ]+)"[^>]*>', drawn)
    assert view is not None
    body = re.sub(r'<g id="[^"]*"', "<g", drawn[view.end() :]).replace("xlink:href", "href")
    for name, color in STAND_INS.items():
        body = body.replace(color, f"var(--{name})")
    opening = Markup('<svg viewBox="{}" role="img" aria-label="{}">').format(view[1], label)
    return opening + Markup(body)
