"""A small process that outlives a command and ends what the command has left behind.

A command that is killed cannot clean up. Ray ends most of its processes with it, but a worker in the middle
of a long step may stay, its agents look for the dead Ray for a minute, and nobody removes the sockets. The
guard waits for the command's end, however it comes about, gives the processes `GRACE_S` to end by
themselves, kills the rest and removes the folders that it was told of.

Processes of a command are those that were started with its mark in their environment; see
`steper_ray.ray_runtime.session`. This file is run as a script, so it imports nothing of the package.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "STEPER_RAY_COMMAND"
"""Environment variable of a command's processes."""


GRACE_S: Final = 4.0
"""Seconds in which processes may end by themselves."""


class Guard:
    """The guard of this process; it acts when the pipe to it is closed, as it is when this process dies."""

    def __init__(self, mark: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, mark],
            stdin=subprocess.PIPE,
            # whoever reads what the command prints does not wait for the guard
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )

    def removes(self, folder: Path) -> None:
        """Have a folder removed in the end."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(str(folder)) + "\n")
        self._process.stdin.flush()

    def close(self) -> None:
        """Let it act now, and do not wait for it."""
        assert self._process.stdin is not None
        self._process.stdin.close()


@contextmanager
def guarded(mark: str) -> Iterator[Guard]:
    """A guard of the processes with this mark, which acts at the end of the block or of this process."""
    guard = Guard(mark)
    try:
        yield guard
    finally:
        guard.close()


def _marked(mark: str) -> list[psutil.Process]:
    """The processes that were started with a mark in their environment, this one aside."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(process)
        except (psutil.AccessDenied, psutil.NoSuchProcess):
            continue  # another user's, or over
    return found


def _wait_and_end(mark: str) -> None:
    """What the script does: wait for the command's end, then for its processes, and clean up."""
    folders = [json.loads(line) for line in sys.stdin]
    limit = time.monotonic() + GRACE_S
    while (left := _marked(mark)) and time.monotonic() < limit:
        time.sleep(0.2)
    for process in left:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(left, timeout=GRACE_S)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    _wait_and_end(sys.argv[1])
