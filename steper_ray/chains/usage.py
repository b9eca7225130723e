"""Usage of the engines (tokens, seconds, searches, starts), collected from the actors while they run."""

import math
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from typing import Any

from steper_ray.chains.busy_window import busy_window
from steper_ray.ray_runtime.watch import calling_every

Progress = Callable[[int, int], None]
"""Called with (questions done, questions in all)."""


@dataclass(frozen=True, slots=True)
class EngineUsage:
    """Tokens, seconds, searches and starts of the engines of a run."""

    asked: int = 0
    """Samples of questions that were answered; a retried one counts twice."""
    chains: int = 0
    engine_seconds: float = 0.0
    """From the first engine being ready to the last question being answered."""
    cpu_seconds: float = 0.0
    """CPU time of the actors, without the engines, which are processes of their own."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in a prefix cache."""
    generated_tokens: int = 0
    searches: int = 0
    remembered: int = 0
    """Searches that an actor answered from memory, having made them before."""
    starts: int = 0
    """Actors that were started, restarts included."""
    start_seconds: float = 0.0
    """From the call to the first engine being ready."""
    waiting_work: float = 0.0
    """Work of the busy window (`BusyWindow`): steps in units of a mean sample."""
    waiting_seconds: float = 0.0
    """Length of the busy window, summed over the engines; see `steper_ray.planning.throughput`."""
    waiting_slices: int = 0
    """Slices of the busy window, by which the throughput is seen to vary."""
    waiting_deviations: float = 0.0
    """Sum of the squared relative deviations of the slices' work."""

    def __add__(self, other: "EngineUsage") -> "EngineUsage":
        return EngineUsage(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


class UsageTally:
    """The actor on the driver's node to which every ChainActor reports its usage."""

    def __init__(self) -> None:
        self._usage = EngineUsage()
        self._actors: dict[str, Any] = {}
        self._restarts: dict[str, int] = {}
        self._called_at = time.monotonic()
        self._ready_at: list[float] = []
        self._reason = ""
        self._begun, self._done = array("d"), array("d")
        """Start and end of each step."""
        self._first, self._last, self._newest = math.inf, 0.0, 0.0
        """Times of the first answer, the last start of a question, and the last answer."""

    def start(self, actor: Any, actor_id: str, restarts: int) -> tuple[int, int, str]:
        """Register a started actor.

        restarts: of this actor so far, from `counted_restarts`

        Returns the number of starts, that of all actors' restarts, and why the last one died, if known.
        """
        self._actors[actor_id], self._restarts[actor_id] = actor, restarts
        self._usage += EngineUsage(starts=1)
        return self._usage.starts, sum(self._restarts.values()), self._reason

    def actors(self) -> list[Any]:
        """Actors that were started."""
        return list(self._actors.values())

    def ready(self) -> None:
        """Note that an engine is ready."""
        self._ready_at.append(time.monotonic())

    def died(self, reason: str) -> None:
        """Note why an actor is about to die."""
        self._reason = reason

    def add(self, usage: EngineUsage, ages: Sequence[tuple[float, Sequence[float]]]) -> None:
        """Add the usage of answered samples.

        ages: for each sample, seconds since it was answered, and the seconds of each of its steps
        """
        now = time.monotonic()
        self._usage += usage
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
            self._usage = replace(self._usage, engine_seconds=self._newest - self._ready_at[0])

    def report(self) -> EngineUsage:
        """Usage so far."""
        return self._usage

    def total(self) -> EngineUsage:
        """Usage of the finished run, with its busy window."""
        if not self._ready_at:
            return self._usage
        window = busy_window(
            self._begun, self._done, self._usage.asked, self._first, self._last, self._ready_at
        )
        return replace(
            self._usage,
            start_seconds=self._ready_at[0] - self._called_at,
            waiting_work=window.work,
            waiting_seconds=window.seconds,
            waiting_slices=window.slices,
            waiting_deviations=window.deviations,
        )


def counted_restarts(actor_id: str) -> int:
    """Times that Ray has started an actor again, without those after a notice of its node's end."""
    from ray._private.state import state
    from ray._raylet import ActorID
    from ray.core.generated.gcs_pb2 import ActorTableData  # type: ignore[attr-defined]

    row = state._connect_and_get_accessor().get_actor_info(ActorID.from_hex(actor_id))
    actor = ActorTableData.FromString(row)
    counted: int = actor.num_restarts - actor.num_restarts_due_to_node_preemption
    return counted


@contextmanager
def usage_tally(total: int, on_progress: Progress | None) -> Iterator[Any]:
    """A UsageTally on the driver's node, where it survives lost nodes; reports progress twice a second."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    driver_node = NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    actor: Any = ray.remote(UsageTally)
    tally = actor.options(num_cpus=0, scheduling_strategy=driver_node).remote()

    def report() -> None:
        if on_progress is not None:
            on_progress(min(total, ray.get(tally.report.remote()).asked), total)

    try:
        with calling_every(0.5, report):
            yield tally
    finally:
        report()
        # After a failed run Ray Data keeps its actors alive, and the cores that they hold.
        for actor in ray.get(tally.actors.remote()):
            ray.kill(actor)
        ray.kill(tally)
