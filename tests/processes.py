"""Whether processes that a test has ended are gone."""

import psutil


def ended(process: psutil.Process) -> bool:
    """Whether a process runs no more; one that is dead and that nobody has waited for counts as ended."""
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
