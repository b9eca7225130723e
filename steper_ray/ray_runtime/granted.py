"""Resources that the actors and placement groups of this job hold."""

from collections import Counter

from steper_ray.ray_runtime.placement import placement_groups
from steper_ray.ray_runtime.room import amounts
from steper_ray.ray_runtime.waiting import NOTHING


def granted_requests() -> Counter[str]:
    """What actors and placement groups of this job asked for and have: amounts, and how many times.

    An actor within a placement group is not counted beside it. Needs a running Ray.
    """
    import ray
    from ray._private.state import state
    from ray.core.generated.gcs_pb2 import ActorTableData  # type: ignore[attr-defined]

    job, tables = ray.get_runtime_context().get_job_id(), state._connect_and_get_accessor()
    requests: Counter[str] = Counter()
    for row in tables.get_actor_table(None, None):
        actor = ActorTableData.FromString(row)
        within_group = any("_group_" in name for name in actor.required_resources)
        if actor.job_id.hex() == job and actor.state == ActorTableData.ALIVE and not within_group:
            requests[amounts(actor.required_resources)] += 1
    for group in placement_groups():
        if group.state == group.CREATED:
            requests.update(amounts(bundle.unit_resources) for bundle in group.bundles)
    del requests[NOTHING]
    return requests
