"""A small process that outlives a command and ends what the command has left behind.

A command that is killed cannot clean up. Ray ends most of its processes with it, but a worker in the middle
of a long step may stay, its agents look for the dead Ray for a minute, and nobody removes the sockets. The
guard waits for the command's end, however it comes about, gives the processes `GRACE_S` to end by
themselves, kills the rest and removes the folders that it was told of.

This file is run as a script, so it imports nothing of the package.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import psutil

MARK: Final = "STEPER_RAY_COMMAND"
"""Environment variable of a command's processes."""


GRACE_S: Final = 4.0
"""Seconds in which processes may end by themselves."""


LOOK_EVERY_S: Final = 1.0
"""Seconds between two looks at what the command's Ray has started; each takes some milliseconds."""


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


class _Family:
    """The processes that a command's Ray has started, whether they still have their parents or not.

    Ray and vLLM write their processes' titles over the environment, so only the first of a family shows the
    mark; the others are known by descent, which has to be looked at while the parents live.
    """

    def __init__(self, mark: str, command: int) -> None:
        self._mark = mark
        self._command = command
        self._known: set[psutil.Process] = set()

    def look(self) -> list[psutil.Process]:
        """Note the new ones, and forget those that have ended; the ones that run."""
        children: defaultdict[int, list[psutil.Process]] = defaultdict(list)
        running = set()
        for process in psutil.process_iter(["ppid", "status"]):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                running.add(process)
                children[process.info["ppid"]].append(process)
        self._known &= running
        firsts = (child for child in children[self._command] if self._is_first(child))
        new = [*firsts, *self._known]
        while new:
            self._known.update(new)
            new = [
                child
                for process in new
                for child in children[process.pid]
                if child not in self._known
            ]
        return list(self._known)

    def _is_first(self, process: psutil.Process) -> bool:
        if process in self._known or process.pid == os.getpid():
            return False
        try:
            return bool(process.environ().get(MARK) == self._mark)
        except psutil.Error:
            return False  # over by now


def _wait_and_end(mark: str) -> None:
    """What the script does: wait for the command's end, then for its processes, and clean up."""
    family = _Family(mark, os.getppid())
    told = b""
    while True:
        if select.select([sys.stdin], [], [], LOOK_EVERY_S)[0]:
            new = os.read(sys.stdin.fileno(), 4096)
            if not new:
                break
            told += new
        family.look()
    limit = time.monotonic() + GRACE_S
    while (left := family.look()) and time.monotonic() < limit:
        time.sleep(0.2)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_S)
    for folder in told.decode().splitlines():
        shutil.rmtree(json.loads(folder), ignore_errors=True)


if __name__ == "__main__":
    _wait_and_end(sys.argv[1])
