"""Drawings of a training's losses and σ over the steps: SVG charts for pages, PNG pictures for cards.

The PNGs have a title and named axes, since they stand alone.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steper_ray.reports.drawing import (
    EDGE,
    STAND_INS,
    WIDTH,
    bare_axes,
    light_colors,
    markup,
    titled_axes,
    write_picture,
)
from steper_ray.reports.training_curves import Curve, ability_curves, read_training

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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


def write_training_pictures(metrics_file: Path, folder: Path) -> list[Path]:
    """Write the PNGs of a training's losses and σ to `folder`; returns the files, none without losses."""
    curves = ability_curves(read_training(metrics_file))
    if not curves.losses:
        return []
    return write_curve_pictures(curves.losses, curves.sigmas, list(curves.rests.values()), folder)


def sigma_chart_of(metrics_file: Path) -> "Markup | None":
    """Chart of a training's σ and where each comes to rest; None if no σ was learned."""
    curves = ability_curves(read_training(metrics_file))
    moved = any(len(set(sigma.values)) > 1 for sigma in curves.sigmas)
    return sigma_chart(curves.sigmas, list(curves.rests.values())) if moved else None


def write_curve_pictures(
    losses: Sequence[Curve], sigmas: Sequence[Curve], rests: Sequence[Curve], folder: Path
) -> list[Path]:
    """Write `losses.png` and `sigma.png` to `folder`; returns the files written.

    losses: in nats; sigmas, rests: σ of each ability and √L, where it comes to rest
    Without losses, or without sigmas, there is no such picture.
    """
    folder.mkdir(parents=True, exist_ok=True)
    colors = light_colors()
    written = []
    if losses:
        note = "Cross-entropy of the target tokens, running mean"
        figure, axes = _curve_axes(colors, losses, "Training loss", note, "nats")
        _draw_losses(axes, colors, losses)
        written.append(write_picture(figure, colors, folder / "losses.png"))
    if sigmas:
        note = "Dashed: the square root of its loss, where it comes to rest"
        figure, axes = _curve_axes(colors, sigmas, "σ of each ability", note, "σ")
        _draw_sigmas(axes, colors, sigmas, rests)
        written.append(write_picture(figure, colors, folder / "sigma.png"))
    return written


def _draw_losses(axes: "Axes", colors: Mapping[str, str], losses: Sequence[Curve]) -> list[Curve]:
    """Draw the losses faintly, and their running means; returns the running means."""
    short = [loss.shortened() for loss in losses]
    for curve in short:
        if len(curve.values) >= 40:
            _draw(axes, colors, curve, linewidth=1, alpha=0.28)
    smooth = [curve.smoothed() for curve in short]
    for curve in smooth:
        _draw(axes, colors, curve)
    _scale(axes, [value for curve in short for value in curve.values])
    _name_ends(axes, colors, smooth)
    return smooth


def _draw_sigmas(
    axes: "Axes", colors: Mapping[str, str], sigmas: Sequence[Curve], rests: Sequence[Curve]
) -> tuple[list[Curve], list[Curve]]:
    """Draw σ solid and √L dashed; returns the curves as drawn, solid and dashed."""
    solid, dashed = [c.shortened() for c in sigmas], [c.shortened() for c in rests]
    for curve in dashed:
        _draw(axes, colors, curve, linewidth=1.4, dashed=True)
    for curve in solid:
        _draw(axes, colors, curve)
    _scale(axes, [value for curve in (*solid, *dashed) for value in curve.values])
    _name_ends(axes, colors, solid)
    return solid, dashed


def _curve_axes(
    colors: Mapping[str, str], curves: Sequence[Curve], title: str, note: str, unit: str
) -> "tuple[Figure, Axes]":
    """A chart that stands alone, with room at the right for the names of its curves."""
    from matplotlib.transforms import blended_transform_factory

    names = 14 + 9 * max(len(curve.name) for curve in curves)
    figure, axes = titled_axes(
        colors,
        (title, note),
        ("optimizer step", unit),
        height=340,
        right=max(46, names),
        top=58,
    )
    # At the edge, however wide the numbers are.
    at_edge = blended_transform_factory(figure.transFigure, axes.transAxes)
    axes.yaxis.set_label_coords((EDGE + 10) / WIDTH, 0.5, transform=at_edge)
    return figure, axes


def _draw(
    axes: "Axes",
    colors: Mapping[str, str],
    curve: Curve,
    *,
    linewidth: float = 2,
    alpha: float = 1,
    dashed: bool = False,
) -> None:
    axes.plot(
        curve.steps,
        curve.values,
        color=colors[curve.paint],
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


def _name_ends(axes: "Axes", colors: Mapping[str, str], curves: Sequence[Curve]) -> None:
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
            color=colors[curve.paint],
        )


def _ends(curves: Sequence[Curve]) -> str:
    return ", ".join(f"{curve.name} {curve.last:.3g}" for curve in curves)
