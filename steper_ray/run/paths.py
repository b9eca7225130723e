"""Paths as people write them in a run file: `~`, environment variables, `{run.dir}`."""

import os
import re
from pathlib import Path
from typing import Final

from steper_ray.run.secrets import is_secret

RUN_DIR: Final = "{run.dir}"
"""Stands for the run folder, in paths and in what is passed through to other libraries."""


_VARIABLE: Final = re.compile(
    r"\$(?:(?P<escaped>\$)|(?P<name>[A-Za-z_]\w*)|\{(?P<braced>[^}]*)\}?)"
)


_NAMES_PATH: Final = re.compile(
    r"(?:^|_)(?:dir|directory|file|folder|home|path|root)$", re.IGNORECASE
)


_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def expanded(path: str) -> str:
    """The path with `~`, `~user`, `$NAME` and `${NAME}` filled in; `$$` is a dollar sign.

    Raises ValueError for what cannot be filled in, for a variable that may hold a secret, and for control
    characters.
    """
    whole = _filled_in(path)
    if (control := _CONTROL.search(whole)) is not None:
        raise ValueError(
            f"holds the control character {control[0]!r}, which no path may; write a path with backslashes "
            "in single quotes"
        )
    return whole


def _filled_in(path: str) -> str:
    head, slash, rest = path.partition("/")
    if not head.startswith("~"):
        return _VARIABLE.sub(_value, path)
    try:
        home = str(Path(head).expanduser())
    except RuntimeError:
        raise ValueError(
            f"{head} is no user's home folder; write the folder in full, or ./{head} for a name that "
            "begins with ~"
        ) from None
    return home + slash + _VARIABLE.sub(_value, rest)


def escaped(path: str) -> str:
    """The path as `expanded` takes it, to be written into a run file."""
    return path.replace("$", "$$")


def _value(match: re.Match[str]) -> str:
    if match["escaped"]:
        return "$"
    name = match["name"] or match["braced"]
    if not re.fullmatch(r"\$(?:\w+|\{[A-Za-z_]\w*\})", match[0]):
        raise ValueError(
            f"{match[0]} names no environment variable; write ${{NAME}}, or $$ for a dollar sign"
        )
    if is_secret(name, "") and not _NAMES_PATH.search(name):
        raise ValueError(
            f"{match[0]} may hold a secret, which no path may; name a variable that holds a path"
        )
    if not (value := os.environ.get(name, "")):
        raise ValueError(
            f"the environment variable {name} is not set; set it, or write $$ for a dollar sign"
        )
    return value
