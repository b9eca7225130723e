"""A subcommand of `steper`, as data."""

from collections.abc import Callable
from dataclasses import dataclass

from steper_ray.pipeline.stage import Option


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A subcommand of `steper`."""

    help: str
    packages: tuple[str, ...]
    """Packages with its code."""
    sections: tuple[str, ...]
    """Sections of the run file with its settings; none: all of them."""
    writes: tuple[str, ...] = ()
    """What it writes: properties of RunFolder, or file names."""
    options: tuple[Option, ...] = ()
    run: Callable[..., int | None]
    """Takes the configuration, and by name each option that overrides no setting; None is exit code 0."""
    takes_run_file: bool = False
    """Whether it also takes `run_file` and `overrides`, as they were given."""
    has_job: bool = True
    """Whether jobs/ has a script for it; none for commands that deal with jobs themselves."""
    needs_run_file: bool = True
    """False runs the toy world where no run file is given."""
