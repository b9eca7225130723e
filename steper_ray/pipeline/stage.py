"""A stage and its command-line options, as data: what an entry of `STAGES` says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steper_ray.pipeline.messages import StageResult
    from steper_ray.ray_runtime.progress import StageProgress
    from steper_ray.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class Option:
    """An option of one command, beside `--config` and `--set`."""

    name: str
    """As it is typed: `--fresh`; without dashes it is a positional argument, which must be given unless it
    has a default."""
    help: str
    metavar: str | None = None
    """What stands for its value in `--help`; None makes it a switch."""
    setting: str | None = None
    """Setting that it overrides, as `build.fresh`; None passes it to the command's function by its name."""
    required: bool = False
    repeated: bool = False
    """Whether it may be given several times; its value is then a list."""
    short: str | None = None
    """Another way to type it, as `-f`."""
    default: str | None = None
    """Its value where it is not given; an empty one stands for none."""
    group: str | None = None
    """Of the options of a command with the same group, only one may be given."""


def _needs_ray(_config: "RunConfig") -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the pipeline: reads files of a run, writes files of a run."""

    help: str
    """What it does, for `steper --help`, the docs and its job."""
    packages: tuple[str, ...]
    """Packages with its code."""
    sections: tuple[str, ...]
    """Sections of the run file with its settings, the most important one first."""
    reads: tuple[str, ...] = ()
    """What it reads: properties of RunFolder, or settings that name the user's files."""
    writes: tuple[str, ...] = ()
    """What it writes: properties of RunFolder."""
    lease: str | None = None
    """Property of RunFolder of which it holds the lease while it runs: it has one writer at a time."""
    options: tuple[Option, ...] = ()
    run: Callable[["RunConfig", "StageProgress"], "StageResult"]
    doing: str
    """What the progress line says until the first count is known."""
    check: Callable[["RunConfig"], None] | None = None
    """Raises InputError for settings that it cannot run with, before Ray starts."""
    needs_ray: Callable[["RunConfig"], bool] = _needs_ray
