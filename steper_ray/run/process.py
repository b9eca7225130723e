"""Which process is meant, also after its id has been given to another one."""

import socket
from contextlib import suppress
from pathlib import Path

import psutil


def this_machine() -> str:
    """Names the machine and process table that this process is in; a container has a table of its own."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def process_started(pid: int) -> float | None:
    """When a process started, which tells it from a later one with its id; None if it does not run.

    Clock ticks since the machine started, which no setting of the clock changes; where there is no /proc,
    seconds by the clock.
    """
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        with suppress(OSError):
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
            return float(status.rpartition(")")[2].split()[19])
        return float(process.create_time())
    except psutil.Error:
        return None


def process_runs(pid: int, started: float) -> bool:
    """Whether the process with this id runs and is the one that started then (`process_started`)."""
    now = process_started(pid)
    return now is not None and abs(now - started) < 5
