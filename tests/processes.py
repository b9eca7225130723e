"""Processes that a test looks for, and whether those that it has ended are gone."""

from collections.abc import Iterable
from contextlib import suppress

import psutil


def ended(process: psutil.Process) -> bool:
    """Whether a process runs no more; one that is dead and that nobody has waited for counts as ended."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def titled(name: str, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Those of some processes that have this in their title."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):  # or a zombie
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found
