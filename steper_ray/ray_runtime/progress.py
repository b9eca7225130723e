"""Progress of a stage: one line, moving on a terminal, plain elsewhere."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Final

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PLAIN_INTERVAL: Final = 15.0
"""Seconds between two lines about the same stage where the output is no terminal."""


class TableProgress(Progress):
    """A progress line with a table above it, where there is one."""

    above: Table | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """What is drawn at each refresh."""
        if self.above is not None:
            yield self.above
        yield from super().get_renderables()


class StageProgress:
    """How far one stage is; `update` may be called from any thread."""

    def __init__(self, name: str, progress: TableProgress | None, task: TaskID | None) -> None:
        self._name, self._progress, self._task = name, progress, task
        self._printed = time.monotonic()
        self._first: tuple[float, float] | None = None
        """When the first update came, and how much was done by then."""
        self.newest: tuple[float, float, str] = (0, 0, "")
        """What was done, of how much, and the words of the newest update."""

    def update(self, done: float, total: float, detail: str = "", *, at_once: bool = False) -> None:
        """Show `done` of `total`, and a few words.

        at_once: where the output is no terminal, print it although little time has passed
        """
        self.newest = (done, total, detail)
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, detail=detail)
        elif at_once or time.monotonic() - self._printed > PLAIN_INTERVAL:
            self._printed = time.monotonic()
            print(f"{self._name:>6}  {detail}{self._left(done, total)}", flush=True)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table above the line, on a terminal only; without rows none."""
        if self._progress is None:
            return
        table = Table(*head, box=None, header_style="bold", padding=(0, 2, 0, 0))
        for row in rows:
            table.add_row(*row)
        self._progress.above = table if rows else None

    def _left(self, done: float, total: float) -> str:
        """How long the rest will take at the pace since the first update."""
        now = time.monotonic()
        if self._first is None:
            self._first = (now, done)
        started, before = self._first
        if done <= before:
            return ""
        left = (now - started) * (total - done) / (done - before)
        return f"  {timedelta(seconds=round(left))} left"

    def count(self, done: int, total: int) -> None:
        """`update` for a count of questions."""
        self.update(done, total, f"{done:,}/{total:,} questions")


@contextmanager
def stage_progress(name: str, doing: str) -> Iterator[StageProgress]:
    """Show a stage while the block runs; the line goes when it ends."""
    if not sys.stdout.isatty():
        print(f"{name:>6}  {doing} …", flush=True)
        yield StageProgress(name, None, None)
        return
    with TableProgress(
        SpinnerColumn(),
        TextColumn("[bold]{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[detail]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        console=Console(),
        transient=True,
        refresh_per_second=4,
    ) as progress:
        task = progress.add_task(f"{name:>6}", total=None, detail=doing)
        yield StageProgress(name, progress, task)


def stage_done(name: str, seconds: float, lines: list[str]) -> None:
    """The lasting line of a finished stage, and what it has to say."""
    first, *rest = lines
    print(f"{name:>6}  {first}  ({seconds:.0f} s)", flush=True)
    for line in rest:
        print(f"{'':>6}  {line}", flush=True)
