"""Histograms of the lengths of a data set's examples, as pictures for its card in the pages' style."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.reports.drawing import (
    EDGE,
    WIDTH,
    ability_paints,
    light_colors,
    titled_axes,
    write_picture,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


PICTURES: Final = {
    "prompt": ("prompt_tokens.png", "Prompt tokens", "What a step sees, by ability"),
    "generated": ("generated_tokens.png", "Written tokens", "What the teacher wrote, by ability"),
}
"""Histogram in `stats.json` → its file, title and note."""


HEIGHT: Final = 330


def write_histograms(tokens: Mapping[str, Mapping[str, Any]], folder: Path) -> list[Path]:
    """Write a picture of each histogram of `statistics.describe(…)["tokens"]` that has examples."""
    return [
        _write(tokens[name], folder / file, title, note)
        for name, (file, title, note) in PICTURES.items()
        if tokens[name]["abilities"]
    ]


def _write(histogram: Mapping[str, Any], file: Path, title: str, note: str) -> Path:
    """Bars of examples over tokens, the abilities stacked in their order, with a legend in words."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    colors = light_colors()
    paint_of = {name: colors[css] for name, css in ability_paints(histogram["abilities"]).items()}
    start, width = histogram["start"], histogram["width"]
    tokens = f"tokens, in bins of {width:,}" if width > 1 else "tokens"
    figure, axes = titled_axes(
        colors, (title, note), (tokens, "examples"), height=HEIGHT, right=30, top=82
    )
    bottoms = [0] * len(next(iter(histogram["abilities"].values()))["counts"])
    first = start - 0.5 if width == 1 else start  # the bar of a single number is centred on it
    edges = [first + width * number for number in range(len(bottoms))]
    for ability, part in histogram["abilities"].items():
        axes.bar(
            edges,
            part["counts"],
            0.9 * width,
            bottoms,
            align="edge",
            color=paint_of[ability],
            linewidth=0,
        )
        bottoms = [low + count for low, count in zip(bottoms, part["counts"], strict=True)]
    axes.set_xlim(first, first + width * len(bottoms))
    axes.set_ylim(0, 1.06 * max(bottoms))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    _legend(figure, paint_of, histogram["abilities"])
    return write_picture(figure, colors, file)


def _legend(
    figure: "Figure", paint_of: Mapping[str, str], abilities: Mapping[str, Mapping[str, Any]]
) -> None:
    """Each ability's name and median in its colour, side by side above the bars."""
    from matplotlib.offsetbox import AnchoredOffsetbox, HPacker, TextArea

    bold: dict[str, Any] = {"fontsize": 12, "fontweight": "bold"}
    texts: list[Any] = [
        TextArea(
            f"{ability}: median {part['median']:,}", textprops={**bold, "color": paint_of[ability]}
        )
        for ability, part in abilities.items()
    ]
    figure.add_artist(
        AnchoredOffsetbox(
            "upper left",
            child=HPacker(children=texts, pad=0, sep=20),
            pad=0,
            borderpad=0,
            frameon=False,
            bbox_to_anchor=(EDGE / WIDTH, 1 - 54 / HEIGHT),
            bbox_transform=figure.transFigure,
        )
    )
