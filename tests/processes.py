"""Processes that a test starts and looks for, and whether those that it has ended are gone."""

import signal
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import psutil


def heed_ctrl_c() -> None:
    """To be run in a new process: a shell that runs the tests in the background has Ctrl-C ignored."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def family(process: "subprocess.Popen[Any]") -> list[psutil.Process]:
    """A process and all that it has started."""
    first = psutil.Process(process.pid)
    return [first, *first.children(recursive=True)]


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
