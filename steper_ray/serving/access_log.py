"""The access log of an ingress: a line for each request, never with what was asked or answered.

`access-<rank>.log` beside the other logs of the launch; five files of 50 MB at the most.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final

from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.serving.settings import AccessLogFormat

LARGEST_FILE: Final = 50_000_000
"""Bytes after which another file is begun."""


FILES: Final = 4
"""Earlier files that are kept."""


@dataclass(frozen=True, slots=True)
class Access:
    """What is told of a request."""

    time: str
    """When it ended, in UTC."""
    id: str
    owner: str
    """Whose key; empty without one."""
    method: str
    route: str
    status: int
    """499 where the client went away before the reply."""
    code: str
    """Code of the error; `ok` without one."""
    tokens: int
    """Of prompts and answers; 0 where they are not known, as of the plain model's stream without usage."""
    seconds: float


WriteAccess = Callable[[Access], None]


def now() -> str:
    """The time as the log has it."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def no_access_log(_access: Access) -> None:
    """Keeps no log."""


def access_log(log: LaunchLog, rank: int, form: AccessLogFormat) -> WriteAccess:
    """Function that writes the log of one ingress."""
    if form == "none":
        return no_access_log
    log.folder.mkdir(parents=True, exist_ok=True)
    return access_file(log.file("access", rank), form)


def access_file(file: Path, form: AccessLogFormat) -> WriteAccess:
    """Function that appends lines to a file, as JSON objects or as `key=value` text."""
    handler = RotatingFileHandler(
        file, maxBytes=LARGEST_FILE, backupCount=FILES, encoding="utf-8", errors="backslashreplace"
    )

    def write(access: Access) -> None:
        values = asdict(access)
        if form == "json":
            line = json.dumps(values, ensure_ascii=False)
        else:
            time = values.pop("time")
            line = " ".join([time, *(f"{name}={as_word(value)}" for name, value in values.items())])
        handler.emit(logging.LogRecord(__name__, logging.INFO, "", 0, line, None, None))

    return write


def as_word(value: object) -> str:
    """A value without spaces and line breaks; `-` for an empty one."""
    text = str(value)
    if text.isascii() and text.isprintable() and not any(c in text for c in ' "='):
        return text or "-"
    return json.dumps(text)
