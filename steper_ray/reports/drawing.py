"""Bare axes in the pages' colours, and a drawing as SVG for a page or as PNG for a card.

For a page matplotlib draws with stand-in colours, and each is then replaced by a CSS variable: one drawing
serves light and dark, in the page's own fonts. Text stays text. Charts are 460 points wide, so that on a
phone their letters can still be read. A PNG stands alone, in a README or a card: it is drawn in the page's
light colours.
"""

import io
import re
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from markupsafe import Markup
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDTH: Final = 460


EDGE: Final = 16
"""Points from the left edge of a picture that stands alone to its title."""


ABILITY_PAINTS: Final = ("init", "exp", "agg")
"""CSS variables of abilities that have a colour of their own."""


FURTHER_PAINTS: Final = ("other-0", "other-1", "other-2")
"""CSS variables of all others that are told apart by colour."""


STAND_INS: Final = {
    name: f"#0a0b{number:02x}"
    for number, name in enumerate(
        (
            *("ink", "muted", "rule", "paper", "student", "base", "teacher"),
            *FURTHER_PAINTS,
            *ABILITY_PAINTS,
        )
    )
}
"""The stand-in colour of each CSS variable."""


def ability_paints(abilities: Iterable[str]) -> dict[str, str]:
    """The CSS variable that colours each ability; of other schemes, further ones in turn."""
    further = cycle(FURTHER_PAINTS)
    return {name: name if name in ABILITY_PAINTS else next(further) for name in abilities}


def bare_axes(
    colors: Mapping[str, str],
    *,
    height: int,
    left: int = 44,
    right: int = 8,
    bottom: int = 30,
    top: int = 12,
) -> "tuple[Figure, Axes]":
    """A figure and its axes: no frame, faint horizontal lines. Height and margins are in points."""
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
    axes.tick_params(which="both", length=0, pad=6, labelsize=12, labelcolor=colors["muted"])
    axes.grid(axis="y", color=colors["rule"], linewidth=1)
    axes.set_axisbelow(True)
    return figure, axes


def titled_axes(
    colors: Mapping[str, str],
    texts: tuple[str, str],
    labels: tuple[str, str],
    *,
    height: int,
    right: int,
    top: int,
) -> "tuple[Figure, Axes]":
    """Bare axes of a picture that stands alone: with a title, and names of both axes.

    texts:  title, and the note below it
    labels: what x and y count
    """
    figure, axes = bare_axes(colors, height=height, left=72, right=right, bottom=50, top=top)
    axes.patch.set_visible(False)
    small: dict[str, Any] = {"fontsize": 12, "color": colors["muted"]}
    title = {**small, "fontsize": 15, "fontweight": "bold", "color": colors["ink"]}
    for text, style, below in zip(texts, (title, small), (23, 42), strict=True):
        figure.text(EDGE / WIDTH, 1 - below / height, text, **style)
    axes.set_xlabel(labels[0], labelpad=6, **small)
    axes.set_ylabel(labels[1], labelpad=8, **small)
    return figure, axes


def write_picture(figure: "Figure", colors: Mapping[str, str], file: Path) -> Path:
    """Write the drawing as a PNG with two pixels a point; returns the file."""
    figure.savefig(file, dpi=144, facecolor=colors["paper"], metadata={"Software": None})
    return file


def light_colors() -> dict[str, str]:
    """The page's colours where it is light: the first block of its style sheet."""
    style = (
        resources.files(__package__)
        .joinpath("templates", "style.css.j2")
        .read_text(encoding="utf-8")
    )
    light = style[: style.index("}")]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light))


def markup(figure: "Figure", label: str) -> "Markup":
    """The drawing as SVG for a page: real text, CSS colours, no metadata.

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
