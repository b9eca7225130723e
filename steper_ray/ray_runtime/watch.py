"""A function called again and again while a block runs: progress of work that happens elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def calling_every(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Call `function` every so many seconds while the block runs, from a thread of its own.

    No call is running any more when the block has ended. An error of the function ends the calls with its
    traceback on standard error, which is a stage's log; work does not fail for its progress line.
    """
    stop = Event()

    def follow() -> None:
        while not stop.wait(seconds):
            function()

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
