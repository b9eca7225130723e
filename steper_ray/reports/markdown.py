"""Markdown for the cards of a student and of a data set: templates, escaped names, code blocks.

A card may be published, so it holds no path of the machine it was written on and nothing secret, and
names that a person chose are written so that Markdown reads them as text.
"""

import re
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from steper_ray.text import one_line

CARD_FILE: Final = "README.md"


def render_template(name: str, **values: Any) -> str:
    """A Markdown template of `reports/templates`, with the filters `text` (see `as_text`) and `fenced`.

    A value that is missing is an error (jinja2.UndefinedError).
    """
    import jinja2

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["text"] = as_text
    environment.filters["fenced"] = fenced
    template = resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")
    return environment.from_string(template).render(**values)


def as_text(value: str) -> str:
    """A name as Markdown that renders as that name, on one line, also in the cell of a table.

    Characters with a meaning in Markdown become character references; unprintable ones are removed.
    """
    special = r"[\\`*{}\[\]<>#|~&!$@]|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(special, lambda sign: f"&#{ord(sign[0])};", one_line(value)) or "–"


def table_lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table; the cells are Markdown."""
    return [f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *rows)]


def fenced(text: str, language: str = "") -> str:
    """Text as a code block, with a fence longer than any in the text."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.strip()}\n{fence}"
