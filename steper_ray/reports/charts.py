"""Charts of scores: bars by model and hops, and dots with their intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steper_ray.evaluation.summary import wilson_interval
from steper_ray.reports.drawing import STAND_INS, bare_axes, markup

if TYPE_CHECKING:
    from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Bar:
    """A model's share of right answers in a group of questions."""

    paint: str
    """Name of the CSS variable that colours it."""
    share: float
    questions: int


def exact_match_chart(groups: Mapping[str, Sequence[Bar]]) -> "Markup":
    """Bars in percent with 95 % Wilson intervals, one group for each hop count.

    groups: a bar a model, by the label of the group; without questions its space stays empty
    """
    colors = STAND_INS
    figure, axes = bare_axes(colors, height=290)
    models = max(len(bars) for bars in groups.values())
    width = 0.82 / models
    roomy = len(groups) * models <= 18
    for position, bars in enumerate(groups.values()):
        for index, bar in enumerate(bars):
            if not bar.questions:
                continue
            x = position + (index - (models - 1) / 2) * width
            low, high = (100 * end for end in wilson_interval(bar.share, bar.questions))
            axes.bar(x, 100 * bar.share, width * 0.88, color=colors[bar.paint])
            axes.vlines(x, low, 100 * bar.share, color=colors["paper"], linewidth=1, alpha=0.7)
            axes.vlines(x, 100 * bar.share, high, color=colors["muted"], linewidth=1)
            if roomy:
                axes.annotate(
                    f"{100 * bar.share:.0f}",
                    (x, high),
                    xytext=(0, 3),
                    textcoords="offset points",
                    ha="center",
                    fontsize=11,
                    color=colors["ink"],
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
