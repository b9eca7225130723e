"""Usage of the engines (tokens, seconds, searches, starts), collected while they run."""

import math
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from threading import Event, Thread
from typing import Any

from steper_ray.chains.busy_window import busy_window

Progress = Callable[[int, int], None]
"""Called with (questions done, questions in all)."""


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """How the engines ran."""

    asked: int = 0
    """Questions and samples done, those twice that had to be done again."""
    chains: int = 0
    engine_seconds: float = 0.0
    """From when the first engine was ready until the last question was done."""
    cpu_seconds: float = 0.0
    """CPU time of the actors; their engines have processes of their own."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in a prefix cache."""
    generated_tokens: int = 0
    searches: int = 0
    remembered: int = 0
    """Searches that an actor had made before, and answered from memory."""
    starts: int = 0
    """Actors that were started, those in place of dead ones too."""
    start_seconds: float = 0.0
    """From the call until the first engine was ready."""
    waiting_work: float = 0.0
    """Questions' and samples' worth of steps written by warm engines while others waited to be begun."""
    waiting_seconds: float = 0.0
    """How long that was, summed over the engines; see `steper_ray.planning.throughput`."""
    waiting_slices: int = 0
    waiting_deviations: float = 0.0
    """How the pace varied in it, see `Waiting`."""

    def __add__(self, other: "EngineUsage") -> "EngineUsage":
        return EngineUsage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class UsageTally:
    """An actor beside the driver that the others report to."""

    def __init__(self) -> None:
        self._ran = EngineUsage()
        self._actors: list[Any] = []
        self._called_at = time.monotonic()
        self._ready_at: list[float] = []
        self._reason = ""
        self._begun, self._done = array("d"), array("d")
        """When each piece of work was begun, and done."""
        self._first, self._last, self._newest = math.inf, 0.0, 0.0
        """When the first question was done, the last one begun, and the newest one done."""

    def start(self, actor: Any) -> tuple[int, str]:
        """An actor has started: how many have by now, and why the last one died as far as it could say."""
        self._actors.append(actor)
        self._ran += EngineUsage(starts=1)
        return self._ran.starts, self._reason

    def actors(self) -> list[Any]:
        """Those that have started."""
        return self._actors

    def ready(self) -> None:
        self._ready_at.append(time.monotonic())

    def died(self, reason: str) -> None:
        self._reason = reason

    def add(self, did: EngineUsage, ages: Sequence[tuple[float, Sequence[float]]]) -> None:
        """Questions are done; ages: for how long, and how long each piece of them took, in seconds."""
        now = time.monotonic()
        self._ran += did
        for age, seconds in ages:
            at = now - age - sum(seconds)
            self._first = min(self._first, now - age)
            self._last = max(self._last, at)
            self._newest = max(self._newest, now - age)
            for piece in seconds:
                self._begun.append(at)
                at += piece
                self._done.append(at)
        if self._ready_at:
            self._ran = replace(self._ran, engine_seconds=self._newest - self._ready_at[0])

    def report(self) -> EngineUsage:
        """What is known at any time."""
        return self._ran

    def whole(self) -> EngineUsage:
        """With what is known when all is done."""
        if not self._ready_at:
            return self._ran
        waiting = busy_window(
            self._begun, self._done, self._ran.asked, self._first, self._last, self._ready_at
        )
        return replace(
            self._ran,
            start_seconds=self._ready_at[0] - self._called_at,
            waiting_work=waiting.work,
            waiting_seconds=waiting.seconds,
            waiting_slices=waiting.slices,
            waiting_deviations=waiting.deviations,
        )


@contextmanager
def usage_tally(total: int, on_progress: Progress | None) -> Iterator[Any]:
    """A tally on this node, which outlives every node that is lost; asked twice a second."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(UsageTally)
    tally = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    stop = Event()

    def tell() -> None:
        if on_progress is not None:
            on_progress(min(total, ray.get(tally.report.remote()).asked), total)

    def listen() -> None:
        while not stop.wait(0.5):
            tell()

    thread = Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield tally
    finally:
        stop.set()
        thread.join()
        tell()
        # Ray Data leaves an actor of a run that failed as it is, with the cores that it holds.
        for actor in ray.get(tally.actors.remote()):
            ray.kill(actor)
        ray.kill(tally)
