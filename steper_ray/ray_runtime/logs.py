"""Where this process's output goes, and what Ray's libraries may say on the terminal."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def redirect_output(log: Path) -> None:
    """Send what this process and its children print to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


@contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    """Send this process's standard error to a file while the block runs.

    Ray's C++ core writes there past every Python setting.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    screen = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        os.close(screen)


def quieten() -> None:
    """Leave the screen to the stages; Ray's own files keep what its libraries say.

    Libraries set their loggers up when they are first used; call it again after that.
    """
    for name in ("ray.train", "ray.serve", "ray.tune", "lance_ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
