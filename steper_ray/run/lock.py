"""A lock on a folder: one writer at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steper_ray.errors import InputError


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Held by whoever writes to `out`; raises InputError at once if somebody else does."""
    from filelock import FileLock, Timeout

    out.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out.with_name(out.name + ".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{out}: another command is writing to it; wait for it, or give this one a run.dir of its own"
        ) from None
    try:
        yield
    finally:
        lock.release()
