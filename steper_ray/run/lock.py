"""Leases: files that say which process writes to a folder or uses it, and that it still lives.

The owner touches its lease every BEAT_S seconds. On the owner's own machine the process table says whether
it lives; on another one, whoever wants the lease watches it, and takes it over when nobody has touched it
for STALE_S seconds. Only changes are looked for: the clocks of two machines need not agree.

`locked` holds a lease beside `flock`. The kernel gives `flock` back the moment a process dies, but some
network file systems grant it on every machine by itself, or not at all.
"""

import errno
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from steper_ray.errors import InputError, StageError
from steper_ray.run.process import process_runs, process_started, this_machine

logger = logging.getLogger(__name__)

BEAT_S: Final = 5.0
"""Seconds between two touches of a lease."""


STALE_S: Final = 60.0
"""Seconds without a touch after which an owner on another machine is taken for dead. A process that is
merely busy (one long call in C) or waits for its disk is silent for less."""


@dataclass(frozen=True, slots=True)
class Owner:
    """The process that holds a lease."""

    lease: str
    """Random, so that no two leases are alike."""
    machine: str
    """Machine and process table; a container has a table of its own."""
    host: str
    pid: int
    started: float
    """When the process started, from `process_started`: process ids are used again."""
    command: str
    since: str

    @property
    def is_here(self) -> bool:
        """Whether this machine's process table has the owner, if it lives."""
        return self.machine == this_machine()

    @property
    def runs(self) -> bool:
        """Whether the owner, which is here, lives."""
        return process_runs(self.pid, self.started)


def read_owner(file: Path) -> Owner | None:
    """The owner that a lease names; None for a lease that is missing, or not written yet."""
    try:
        return Owner(**json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


class Lease:
    """A lease that this process holds from now on; a thread touches it until `release`."""

    def __init__(
        self, file: Path, *, beat_s: float = BEAT_S, on_loss: Callable[[], None] | None = None
    ) -> None:
        """on_loss: called from the thread when somebody else has taken the lease.

        Raises FileExistsError if the lease is there already.
        """
        words = [Path(sys.argv[0]).name, *sys.argv[1:2]]
        self.lost = False
        self._file, self._beat_s, self._on_loss = file, beat_s, on_loss
        self._owner = Owner(
            lease=secrets.token_hex(8),
            machine=this_machine(),
            host=socket.gethostname(),
            pid=os.getpid(),
            started=process_started(os.getpid()) or 0.0,
            command=" ".join(words),
            since=f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC",
        )
        self._write()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._touch, daemon=True)
        self._thread.start()

    def _write(self) -> None:
        descriptor = os.open(self._file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        with os.fdopen(descriptor, "w", encoding="utf-8") as opened:
            json.dump(asdict(self._owner), opened)

    def _touch(self) -> None:
        while not self._end.wait(self._beat_s):
            try:
                if read_owner(self._file) == self._owner:
                    os.utime(self._file)
                else:
                    self._write()  # somebody has removed it by hand
            except FileExistsError:
                self.lost = True
                if self._on_loss is not None:
                    self._on_loss()
                return
            except OSError as error:  # of storage that does not answer now
                logger.warning("%s cannot be touched: %s", self._file, error)

    def release(self) -> None:
        """Give the lease back."""
        self._end.set()
        self._thread.join()
        if read_owner(self._file) == self._owner:
            self._file.unlink(missing_ok=True)


@contextmanager
def locked(out: Path, *, beat_s: float = BEAT_S, stale_s: float = STALE_S) -> Iterator[None]:
    """Held by whoever writes to `out`; raises InputError at once if somebody else does.

    The lease of an owner on another machine is watched for `stale_s` at most, which a line says. Raises
    StageError, in the middle of the block if need be, where another process has taken over: this one had
    been stopped for longer than that.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    file = out.with_name(out.name + ".lease")
    with _flocked(out):
        lease = _taken(out, file, beat_s, stale_s)
        try:
            yield
        except KeyboardInterrupt:
            if not lease.lost:
                raise
        finally:
            lease.release()
        if lease.lost:
            raise StageError(
                f"{out}: {_described(read_owner(file))} has taken over the writing, as this command had "
                f"given no sign of life for {stale_s:g} s; let that one finish"
            )


def check_free(out: Path) -> None:
    """Raises InputError if another command on this machine writes to `out`, before anything is spent.

    It holds nothing: `locked` does, and watches the lease of a command on another machine.
    """
    owner = read_owner(out.with_name(out.name + ".lease"))
    if owner is not None and owner.is_here and owner.runs:
        raise _held(out, owner)


@contextmanager
def _flocked(out: Path) -> Iterator[None]:
    """flock on `out`, as far as its file system knows it."""
    from filelock import FileLock, Timeout

    lock = FileLock(out.with_name(out.name + ".lock"), fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise _held(out, read_owner(out.with_name(out.name + ".lease"))) from None
    except (NotImplementedError, OSError) as error:
        number = getattr(error, "errno", None)
        if number not in (None, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        logger.info("%s: its file system has no flock; the lease alone guards it", out)
    try:
        yield
    finally:
        lock.release()


def _taken(out: Path, file: Path, beat_s: float, stale_s: float) -> Lease:
    """The lease of `out`, as soon as no living process holds it."""
    main = threading.current_thread() is threading.main_thread()
    while True:
        with suppress(FileExistsError):
            return Lease(file, beat_s=beat_s, on_loss=_interrupt_main if main else None)
        before, owner = _stamp(file), read_owner(file)
        if before is None:
            continue
        if owner is not None and owner.is_here:
            lives = owner.runs
        else:
            print(
                f"{out}: {_described(owner)} was writing to it; its lease is watched for a sign of life, "
                f"{stale_s:g} s at most",
                flush=True,
            )
            lives = _changes(file, before, stale_s)
        if lives:
            raise _held(out, owner)
        aside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
        with suppress(FileNotFoundError):
            file.rename(aside)
            if _stamp(aside) != before:  # another command was faster, and this is its new lease
                with suppress(FileExistsError):
                    os.link(aside, file)
            aside.unlink()
        logger.info("%s: the lease of %s is over", out, _described(owner))


def _interrupt_main() -> None:
    """Raise KeyboardInterrupt in the main thread, whatever it waits for.

    By SIGTERM where that is what it does (`steper`): a command in the background may ignore SIGINT.
    """
    raises = callable(signal.getsignal(signal.SIGTERM))
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGTERM if raises else signal.SIGINT)


def _stamp(file: Path) -> tuple[int, int] | None:
    """Identity of a lease and time of its last touch; opened, so that NFS asks its server."""
    try:
        with file.open("rb") as opened:
            status = os.fstat(opened.fileno())
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _changes(file: Path, before: tuple[int, int], seconds: float) -> bool:
    """Whether a lease is touched or replaced within so many seconds; given back counts as unchanged."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(min(1.0, seconds / 10))
        now = _stamp(file)
        if now != before:
            return now is not None
    return False


def _held(out: Path, owner: Owner | None) -> InputError:
    return InputError(
        f"{out}: another command is writing to it: {_described(owner)}; wait for it, or give this one a "
        "run.dir of its own"
    )


def _described(owner: Owner | None) -> str:
    if owner is None:
        return "a process that gives no name"
    return f"{owner.command} (process {owner.pid} on {owner.host}, since {owner.since})"
