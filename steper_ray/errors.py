"""Every error steper_ray raises on purpose.

    SteperError
    ├── InputError (also a ValueError)   something the user gave is wrong; the command exits with 2
    │   └── ConfigError                  … and it is in the run file
    └── StageError                       a stage failed while running; the command exits with 1

A message is one line: what is wrong, where, what to do.
"""

import errno
import os
import re
from collections.abc import Iterator


class SteperError(Exception):
    """Base of all of them."""


class InputError(SteperError, ValueError):
    """A file, row, model folder or option that cannot be used."""


class ConfigError(InputError):
    """The run file (or a `--set`) has an unknown key, a wrong type or an impossible value."""


class RowError(SteperError):
    """One question could not be worked on; its row carries the message, and a later run tries again."""


class ModelRefusedError(RowError):
    """A request that the served model's own interface refuses, with what an HTTP reply needs.

    status: of the reply, from 400 to 499
    param: the part of the request that is wrong, where that is known
    too_long: whether the prompt and what is to be written are longer than the model's context
    """

    def __init__(
        self,
        message: str,
        status: int = 400,
        param: str | None = None,
        too_long: bool = False,
    ) -> None:
        super().__init__(message, status, param, too_long)
        self.status, self.param, self.too_long = status, param, too_long

    def __str__(self) -> str:
        return str(self.args[0])


class SearchFailedError(SteperError):
    """A search that failed in a way that nobody foresaw; the log of the retriever has its traceback."""


class EngineDiedError(SteperError):
    """A model's engine ended while it wrote; one that is started anew may be asked the same."""


class ReplicaLostError(SteperError):
    """A replica behind the server ended before its work was done; another may be asked the same."""


class StageError(SteperError):
    """A stage could not finish; the message names the stage and its log."""


class DivergedError(StageError):
    """A training's loss or gradient is not finite; the same settings give the same again."""


class AllRanksError(StageError):
    """What all workers of a training raise together: none waits for another, and a retry gives the same.

    of_input: whether the user can mend it (an `InputError`)
    diverged: whether a loss or a gradient is not finite (a `DivergedError`)
    """

    def __init__(self, message: str, of_input: bool = False, diverged: bool = False) -> None:
        super().__init__(message, of_input, diverged)
        self.of_input = of_input
        self.diverged = diverged

    def __str__(self) -> str:
        return str(self.args[0])

    def original(self) -> SteperError:
        """The error as the command shows it."""
        if self.of_input:
            return InputError(str(self))
        return (DivergedError if self.diverged else StageError)(str(self))


def find_steper_error(error: BaseException) -> SteperError | None:
    """The `SteperError` that Ray wrapped on its way from a worker, or None if there is none."""
    for current in behind(error):
        if isinstance(current, SteperError) and getattr(current, "cause", None) is None:
            return current
        if told := _told(str(current)):
            return told
    return None


def is_full_disk(error: BaseException) -> bool:
    """Whether it comes from a disk without room; some libraries say so only in words."""
    words = os.strerror(errno.ENOSPC)
    return any(
        (isinstance(current, OSError) and current.errno == errno.ENOSPC) or words in str(current)
        for current in behind(error)
    )


def behind(error: BaseException) -> Iterator[BaseException]:
    """The error, and every error that it came from, nearest first; also through what Ray wraps."""
    seen: set[int] = set()
    queue: list[BaseException | None] = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        yield current
        cause = getattr(current, "cause", None)
        queue += [cause if isinstance(cause, BaseException) else None]
        queue += [current.__cause__, current.__context__]


def _told(traceback: str) -> SteperError | None:
    """The error that a worker's traceback tells of; Ray Data hands on no more of it than that text."""
    found = re.search(r"^steper_ray\.errors\.(\w+): (.+)$", traceback, re.MULTILINE)
    kind = globals().get(found[1]) if found else None
    return kind(found[2]) if found and kind else None
