"""Resources that a stage waits for, said on the terminal; Ray itself warns of them in its files only."""

import logging
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from steper_ray.ray_runtime.placement import placement_groups
from steper_ray.ray_runtime.watch import calling_every

logger = logging.getLogger(__name__)

PATIENCE_S: Final = 15.0
"""A process takes seconds to start where nothing is missing."""


NOTHING: Final = ""
"""The amounts of an actor that needs no resources."""


def pending_requests() -> Counter[str]:
    """What actors and placement groups of this job ask for and do not have: amounts, and how many times."""
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData  # type: ignore[attr-defined]

    job, tables = ray.get_runtime_context().get_job_id(), state._connect_and_get_accessor()
    requests: Counter[str] = Counter()
    for row in tables.get_actor_table(None, None):
        actor = ActorTableData.FromString(row)
        # an actor that has a process is only busy constructing itself
        starts = actor.state == ActorTableData.PENDING_CREATION and not actor.pid
        within_group = any("_group_" in name for name in actor.required_resources)
        if (
            actor.job_id.hex() == job
            and (starts or actor.state == ActorTableData.RESTARTING)
            and not within_group
        ):
            requests[amounts(actor.required_resources)] += 1
    for group in placement_groups():
        if group.state in (group.PENDING, group.RESCHEDULING):
            requests.update(amounts(bundle.unit_resources) for bundle in group.bundles)
    del requests[NOTHING]  # on a busy machine, it waits for a process to start
    return requests


def amounts(resources: Mapping[str, float]) -> str:
    """Resources in words, as `1 CPU + 0.5 GPU`; those that bind to one node are left out."""
    named = {name: amount for name, amount in resources.items() if not name.startswith("node:")}
    return " + ".join(f"{named[name]:g} {name}" for name in sorted(named) if named[name])


@contextmanager
def telling_of_waits(stage: str, *, patience_s: float = PATIENCE_S) -> Iterator[None]:
    """While the block runs, print once what has been waited for so long."""
    since: dict[str, float] = {}
    told: set[str] = set()

    def look() -> None:
        ray = sys.modules.get("ray")
        if ray is None or not ray.is_initialized():
            return
        now, requests = time.monotonic(), pending_requests()
        for request in set(since) - set(requests):
            del since[request]
        for request in requests:
            first = since.setdefault(request, now)
            if now - first >= patience_s and request not in told:
                told.add(request)
                _tell(stage, f"{requests[request]} × ({request})")

    with calling_every(patience_s / 3, look):
        yield


def _tell(stage: str, request: str) -> None:
    import ray

    kinds = ("CPU", "GPU")
    whole, free = (
        {kind: resources.get(kind, 0.0) for kind in kinds}
        for resources in (ray.cluster_resources(), ray.available_resources())
    )
    of_all = ", ".join(f"{free[kind]:g} of {whole[kind]:g} {kind}" for kind in kinds)
    message = f"waits for resources: {request}; free are {of_all}"
    logger.warning(message)
    print(f"{stage:>6}  {message}", flush=True)
