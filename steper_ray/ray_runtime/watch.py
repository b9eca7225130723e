"""A function called again and again while a block runs: progress of work that happens elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event, Thread


@contextmanager
def calling_every(seconds: float, function: Callable[[], None]) -> Iterator[None]:
    """Call `function` every so many seconds while the block runs, and once more when it has ended.

    The calls come from a thread of their own, one after the other. An error of the function ends the
    calls and is raised at the end of the block, unless the block has an error of its own.
    """
    stop = Event()
    errors: list[BaseException] = []

    def follow() -> None:
        try:
            while not stop.wait(seconds):
                function()
        except BaseException as error:  # noqa: BLE001 - raised by the block's thread
            errors.append(error)

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise errors[0]
    function()
