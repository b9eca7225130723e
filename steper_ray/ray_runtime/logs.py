"""The log of a launch: one file a process in `logs/<stage>/<attempt>/`, and a link `latest` to the newest.

The command chooses the folder and hands it to its actors, which write `<role>-<rank>.log` there. Lines come
from Python's `logging` (loggers below `steper_ray`, from level INFO) and from what the process and its
children print. Ray's own files of an actor, which its dashboard shows, get both as well.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Final

from steper_ray.errors import InputError, is_full_disk
from steper_ray.files import replace_link
from steper_ray.ray_runtime import log_lines
from steper_ray.run.folder import LATEST
from steper_ray.run.settings import LogFormat

OUR_LOGGER: Final = logging.getLogger("steper_ray")
"""The parent of every `logging.getLogger(__name__)` of the package."""


@dataclass(frozen=True, slots=True)
class LaunchLog:
    """The log of one launch of a stage or server."""

    folder: Path
    form: LogFormat = "text"

    @property
    def stage(self) -> str:
        """The stage or command that was launched."""
        return self.folder.parent.name

    @property
    def run(self) -> str:
        """The name of its run folder."""
        return self.folder.parents[2].name

    def file(self, role: str, rank: int) -> Path:
        """The file of one process."""
        return self.folder / f"{role}-{rank}.log"


_LAUNCH: ContextVar[LaunchLog | None] = ContextVar("launch", default=None)


@contextmanager
def launch(folder: Path, form: LogFormat = "text") -> Iterator[LaunchLog]:
    """The log of the launch under way, else of a new one that lasts as long as the block.

    So a training within a comparison, or an evaluation within a training, is part of the outer launch.

    folder: of a stage's logs (`RunFolder.log`), for a new launch
    """
    if (under_way := _LAUNCH.get()) is not None:
        yield under_way
        return
    log = new_launch(folder, form)
    token = _LAUNCH.set(log)
    try:
        with logging_to(log, "driver"):
            yield log
    finally:
        _LAUNCH.reset(token)


def new_launch(folder: Path, form: LogFormat) -> LaunchLog:
    """The log of a new launch, in a new folder named by its time; `latest` then leads to it.

    Raises InputError if the run folder, in which it lies, is none that can be written to.
    """
    with _in_run_folder(folder):
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{datetime.now():%Y-%m-%dT%H-%M-%S}"
        for number in count(1):
            attempt = folder / (name if number == 1 else f"{name}.{number}")
            try:
                attempt.mkdir()
            except FileExistsError:  # another launch in the same second
                continue
            break
        replace_link(folder / LATEST, attempt)
    return LaunchLog(attempt, form)


@contextmanager
def _in_run_folder(folder: Path) -> Iterator[None]:
    """Raises InputError where the block cannot write to a folder of a run; a full disk stays what it is."""
    try:
        yield
    except (NotADirectoryError, FileExistsError):
        file = next((path for path in (folder, *folder.parents) if path.is_file()), folder)
        raise InputError(f"run.dir: {file} is a file; name a folder") from None
    except OSError as error:
        if is_full_disk(error):
            raise
        raise InputError(
            f"run.dir: {folder} cannot be written to ({error.strerror}); name a folder that can"
        ) from None


@contextmanager
def logging_to(log: LaunchLog, role: str, rank: int = 0) -> Iterator[None]:
    """Write what this process logs while the block runs to its file; the terminal gets nothing of it."""
    handler = log_lines.file_handler(log.file(role, rank), log.form, role, rank)
    before = OUR_LOGGER.level, OUR_LOGGER.propagate
    _add(handler)
    try:
        yield
    finally:
        OUR_LOGGER.setLevel(before[0])  # which forgets what loggers below remember of levels
        OUR_LOGGER.propagate = before[1]
        OUR_LOGGER.removeHandler(handler)
        handler.close()


def start_log(log: LaunchLog, role: str, rank: int) -> None:
    """Write what this actor logs, and it and its children print, to its file and, as before, to Ray's."""
    log.folder.mkdir(parents=True, exist_ok=True)
    rays = os.dup(2)
    _add(log_lines.file_handler(log.file(role, rank), log.form, role, rank))
    to_ray = logging.StreamHandler(os.fdopen(rays, "w", buffering=1, errors="backslashreplace"))
    to_ray.setFormatter(log_lines.LineFormatter(log.form, role, rank))
    _add(to_ray)
    _copy_output(log, role, rank, {1: os.dup(1), 2: rays})


@contextmanager
def stderr_to(log: LaunchLog) -> Iterator[None]:
    """Send this process's standard error to its file while the block runs.

    Ray's C++ core writes there past every Python setting.
    """
    screen = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    _copy_output(log, "driver", 0, {2: nowhere})
    os.close(nowhere)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        os.close(screen)


def quieten() -> None:
    """Have Ray's libraries give warnings only; during a stage they go to its log (`stderr_to`).

    Libraries set their loggers up when they are first used; call it again after that.
    """
    for name in ("ray.train", "ray.serve", "ray.tune", "lance_ray"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _add(handler: logging.Handler) -> None:
    OUR_LOGGER.addHandler(handler)
    OUR_LOGGER.setLevel(logging.INFO)
    OUR_LOGGER.propagate = False  # libraries give the root logger handlers, which print


def _copy_output(log: LaunchLog, role: str, rank: int, targets: Mapping[int, int]) -> None:
    """Put pipes in the place of standard output and error, and have them copied to the log and elsewhere.

    targets: 1 or 2 → the file descriptor that gets what is written to it, as it is
    """
    sys.stdout.flush()
    sys.stderr.flush()
    pipes = {descriptor: os.pipe() for descriptor in targets}
    names = {1: "stdout", 2: "stderr"}
    sources = [source for source, _ in pipes.values()]
    subprocess.run(
        [
            *(sys.executable, "-I", "-S", log_lines.__file__),
            *(str(log.file(role, rank)), log.form, role, str(rank)),
            *(f"{pipes[one][0]}:{target}:{names[one]}" for one, target in targets.items()),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=(*sources, *targets.values()),
        check=True,
    )
    for descriptor, (source, sink) in pipes.items():
        os.dup2(sink, descriptor)
        os.close(source)
        os.close(sink)
