"""Room that a stage waits for, said on the terminal again and again; Ray itself warns in its files only.

With a limit (`run.wait_for_room_minutes`) the stage ends when it has waited so long for the same thing.
"""

import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Final, NamedTuple

from steper_ray.errors import StageError
from steper_ray.ray_runtime.placement import placement_groups
from steper_ray.ray_runtime.room import amounts, growth_words, read_cluster
from steper_ray.ray_runtime.watch import calling_every

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 15.0
"""A process takes seconds to start where nothing is missing."""


REPEAT_S: Final = 60.0
"""Seconds between two lines about the same wait."""


NOTHING: Final = ""
"""The amounts of an actor that needs no resources."""


OF_TUNE: Final = "1 memory"
"""Those of a trial's process, which only waits for its workers."""


class ResourceRequests(NamedTuple):
    """Requests of this job's actors and placement groups: amounts (`1 CPU + 0.5 GPU`) → how many times."""

    granted: Counter[str]
    """What they have."""
    pending: Counter[str]
    """What they wait for."""


def resource_requests() -> ResourceRequests:
    """What actors and placement groups of this job have, and what they wait for. Needs a running Ray.

    An actor within a placement group is not counted beside it.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData  # type: ignore[attr-defined]

    job, tables = ray.get_runtime_context().get_job_id(), state._connect_and_get_accessor()
    requests = ResourceRequests(Counter(), Counter())
    for row in tables.get_actor_table(None, None):
        actor = ActorTableData.FromString(row)
        within_group = any("_group_" in name for name in actor.required_resources)
        if actor.job_id.hex() != job or within_group:
            continue
        # an actor that has a process is only busy constructing itself
        starts = actor.state == ActorTableData.PENDING_CREATION and not actor.pid
        if starts or actor.state == ActorTableData.RESTARTING:
            requests.pending[amounts(actor.required_resources)] += 1
        elif actor.state == ActorTableData.ALIVE:
            requests.granted[amounts(actor.required_resources)] += 1
    for group in placement_groups():
        bundles = [amounts(bundle.unit_resources) for bundle in group.bundles]
        if group.state in (group.PENDING, group.RESCHEDULING):
            requests.pending.update(bundles)
        elif group.state == group.CREATED:
            requests.granted.update(bundles)
    for counts in requests:
        del counts[NOTHING]  # on a busy machine, such an actor waits for a process to start
    return requests


@contextmanager
def telling_of_waits(
    stage: str,
    *,
    patience_s: float = PATIENCE_S,
    repeat_s: float = REPEAT_S,
    limit_s: float | None = None,
) -> Iterator[None]:
    """While the block runs, print what has been waited for so long, and again every `repeat_s`.

    limit_s: longest wait for the same thing while nothing of the stage has its resources; in the main
             thread only
    Raises StageError where the limit is reached.
    """
    if threading.current_thread() is not threading.main_thread():
        limit_s = None
    waits = _Waits(stage, patience_s, repeat_s, limit_s)
    try:
        with (
            _interruptible() if limit_s is not None else nullcontext(),
            calling_every(min(patience_s / 3, repeat_s), waits.look),
        ):
            yield
    except KeyboardInterrupt:
        if waits.over is not None:
            raise StageError(waits.over) from None
        raise


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGINT reach this process: Ray blocks it in jobs, shells have background commands ignore it."""
    blocked = signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if not callable(before) and before is not None:
            signal.signal(signal.SIGINT, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


class _Waits:
    """What a stage waits for, since when, and when that was said last."""

    def __init__(
        self, stage: str, patience_s: float, repeat_s: float, limit_s: float | None
    ) -> None:
        self._stage, self._patience_s, self._repeat_s = stage, patience_s, repeat_s
        self._limit_s = limit_s
        self._since: dict[str, float] = {}
        self._told: dict[str, float] = {}
        self.over: str | None = None
        """Why the stage has to end."""

    def look(self) -> None:
        """Look once, and say what is to be said."""
        ray = sys.modules.get("ray")
        if self.over is not None or ray is None or not ray.is_initialized():
            return
        now, (granted, requests) = time.monotonic(), resource_requests()
        idle = not granted.keys() - {OF_TUNE}
        for request in set(self._since) - set(requests):
            del self._since[request]
            self._told.pop(request, None)
        for request, number in requests.items():
            waited = now - self._since.setdefault(request, now)
            if self._limit_s is not None and waited >= self._limit_s and idle:
                self._end(f"{number} × ({request})")
                return
            last = self._told.get(request)
            if waited >= self._patience_s and (last is None or now - last >= self._repeat_s):
                self._told[request] = now
                self._tell(f"{number} × ({request})", waited)

    def _tell(self, request: str, waited: float) -> None:
        parts = [f"waits for room: needs {request}", free_words()]
        if growth := growth_words(read_cluster()):
            parts.append(growth)
        if waited >= 60:
            limit = f" of at most {self._limit_s / 60:g}" if self._limit_s is not None else ""
            parts.append(f"{waited / 60:.0f} minutes so far{limit}")
        message = "; ".join(parts)
        logger.warning(message)
        print(f"{self._stage:>6}  {message}", flush=True)

    def _end(self, request: str) -> None:
        """End the stage as Ctrl-C does, which reaches the main thread wherever it waits."""
        assert self._limit_s is not None
        self.over = (
            f"{self._stage}: no room for {request} within {self._limit_s / 60:.3g} minutes "
            f"(run.wait_for_room_minutes); {free_words()}; give the same command again when there is, it "
            "goes on from what is written"
        )
        logger.error(self.over)
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGINT)


def free_words() -> str:
    """What of the cluster is free, in words."""
    import ray

    whole, free = ray.cluster_resources(), ray.available_resources()
    of_all = (f"{free.get(kind, 0):g} of {whole.get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
    return f"free are {', '.join(of_all)}"
