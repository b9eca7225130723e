"""The lines of a log file, and the process that copies an actor's output into one. Standard library only.

Ray keeps the standard output and error of an actor in files of its own, which its dashboard shows. Run as a
script, this module stands between the two: it passes everything on to Ray's files as it is, and writes each
line to the log file too. A process of its own still reads what a crash says last, and serves the processes
that the actor has started (vLLM's engine) as well.
"""

import json
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Thread


class LineFormatter(logging.Formatter):
    """A line with time (UTC), role, rank, level, logger and message; as text or as a JSON object."""

    def __init__(self, form: str, role: str, rank: int) -> None:
        super().__init__()
        self._form, self._role, self._rank = form, role, rank

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line; as text, each line of a traceback is one."""
        message = super().format(record)
        parts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "role": self._role,
            "rank": self._rank,
            "level": record.levelname,
            "logger": record.name,
        }
        if self._form == "json":
            return json.dumps({**parts, "message": message}, ensure_ascii=False)
        head = " ".join(map(str, parts.values()))
        return "\n".join(f"{head}: {line}" for line in message.splitlines() or [""])


def file_handler(file: Path, form: str, role: str, rank: int) -> logging.Handler:
    """A handler that appends lines to a file."""
    handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(LineFormatter(form, role, rank))
    return handler


def copy_output(source: int, target: int, name: str, handler: logging.Handler) -> None:
    """Copy what is read from a pipe to a file descriptor as it is, and line by line to a handler.

    name: of the logger in the lines
    """
    rest = b""
    while piece := os.read(source, 2**16):
        with suppress(OSError):  # a full disk must not stop the processes that write to the pipe
            os.write(target, piece)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            _handle(line, name, handler)
    _handle(rest, name, handler)


def _handle(line: bytes, name: str, handler: logging.Handler) -> None:
    """Write one printed line; of a progress bar only what was drawn last, of an empty line nothing."""
    text = line.rstrip().rpartition(b"\r")[2].decode(errors="backslashreplace")
    if text:
        record = logging.LogRecord(name, logging.INFO, "", 0, text, None, None)
        handler.handle(record)


def main(file: str, form: str, role: str, rank: str, *pipes: str) -> None:
    """Copy pipes until every process that writes to them is gone; the caller waits only for the start.

    pipes: `source:target:name`, as of `copy_output`
    """
    if os.fork():
        os._exit(0)  # Ray kills the children of an actor that ends, but not this grandchild
    os.setsid()  # nor does Ctrl-C reach it, which the actor outlives
    handler = file_handler(Path(file), form, role, int(rank))
    for pipe in pipes:
        source, target, name = pipe.split(":")
        Thread(target=copy_output, args=(int(source), int(target), name, handler)).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
