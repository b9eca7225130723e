"""The way from `metrics.jsonl` to a tracker: a thread that reads the file and sends each line.

Training only writes the file, so it neither waits for a tracker nor ends with one. Where opening or sending
fails, one line warns of it, and the thread tries again, first after a second and in the end once a minute.
Nothing has to be kept meanwhile: the file has it all. When training is over, the thread has some seconds to
send what is left; one line says how much it could not.
"""

import json
import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Event, Thread
from typing import Any, Final

from steper_ray.text import short_message
from steper_ray.training.trackers import TrackedRun

logger = logging.getLogger(__name__)


FIRST_WAIT: Final = 1.0
"""Seconds until a tracker that fails is tried again; doubled each time."""


LONGEST_WAIT: Final = 60.0


CLOSING_SECONDS: Final = 30.0
"""How long the end of a training waits for all trackers together."""


class TrackerFeed:
    """Sends a metrics file's steps to one tracker as they are written."""

    def __init__(
        self,
        name: str,
        run: TrackedRun,
        file: Path,
        sent: int,
        on_sent: Callable[[str, str | None, int], None],
    ) -> None:
        """file:    of metrics, which only grows
        sent:    last step that the tracker keeps from before; none up to it is sent
        on_sent: called from the thread with the tracker's name, the run's id there, and the last step sent
        """
        self.name, self._run, self._file, self._on_sent = name, run, file, on_sent
        self._sent = self._written = sent
        self._offset = 0
        """Bytes of the file that are done."""
        self._error: BaseException | None = None
        """Why the tracker fails; None while it does not."""
        self._ended = False
        self._news, self._closing = Event(), Event()
        self._thread = Thread(target=self._follow, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def step_written(self, step: int) -> None:
        """Tell that the file has a line more, that of a step."""
        self._written = step
        self._news.set()

    def end(self) -> None:
        """Tell that the file is complete."""
        self._closing.set()
        self._news.set()

    def wait(self, deadline: float) -> None:
        """Wait for the end of the run at the tracker, at most until `time.monotonic()` is the deadline.

        Says in one line what could not be sent.
        """
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._ended:
            return
        unsent = max(0, self._written - self._sent)
        error = "no answer in time" if self._error is None else short_message(self._error)
        logger.warning(
            f"{self.name}: {unsent:,} steps could not be sent ({error}); {self._file} has all steps"
            if unsent
            else f"{self.name}: its run could not be ended ({error}); it has all steps"
        )

    def _follow(self) -> None:
        opened, wait = False, FIRST_WAIT
        while not self._ended:
            closing = self._closing.is_set()
            try:
                if not opened:
                    self._run.open()
                    opened = True
                    self._on_sent(self.name, self._run.id, self._sent)
                self._send_new()
                if closing:
                    self._run.close()
                    self._ended = True
            except Exception as error:  # noqa: BLE001  whatever a tracker's library raises
                opened = False
                self._warn(error)
                if closing:
                    return
                self._closing.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT)
            else:
                self._recovered()
                wait = FIRST_WAIT
                if not self._ended:
                    self._news.wait()
                    self._news.clear()

    def _send_new(self) -> None:
        """Send the lines that the file has more."""
        before = self._sent
        try:
            with self._file.open("rb") as lines:
                lines.seek(self._offset)
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # still being written
                    row = json.loads(line)
                    if row["step"] > self._sent:
                        self._run.send(_points(row), row["step"])
                        self._sent = row["step"]
                    self._offset += len(line)
        finally:
            if self._sent > before:
                self._on_sent(self.name, self._run.id, self._sent)

    def _warn(self, error: Exception) -> None:
        """Once for a failure, however often it is tried again."""
        if self._error is None:
            logger.warning(
                "%s: metrics cannot be sent (%s); training goes on, and they are sent when it is back",
                self.name,
                short_message(error),
            )
        self._error = error

    def _recovered(self) -> None:
        if self._error is not None:
            logger.info("%s: back; all steps up to %d are sent", self.name, self._sent)
        self._error = None


def _points(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line by their names at the trackers; a value that is None has no point."""
    return {
        f"train/{name}": value
        for name, value in row.items()
        if isinstance(value, int | float) and name not in ("step", "steps")
    }
