"""Which replica a request of a session goes to, and one without a session."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any


def router_of(names: list[str]) -> tuple[Any, list[Any]]:
    """A router that knows some replicas."""
    from ray.serve._private.common import ReplicaID

    from steper_ray.serving.deployments.session_router import SessionRouter

    replicas = [SimpleNamespace(replica_id=ReplicaID(name, None)) for name in names]  # type: ignore[arg-type]
    router: Any = SessionRouter.__new__(SessionRouter)
    router._replicas = {replica.replica_id: replica for replica in replicas}
    router._num_virtual_nodes, router._num_fallback_replicas = 100, 2
    router._deployment_id = "server"
    router._rebuild_ring(frozenset(router._replicas))
    return router, replicas


def asked(session: str) -> Any:
    return SimpleNamespace(
        metadata=SimpleNamespace(session_id=session, internal_request_id="r"),
        routing_context=SimpleNamespace(should_backoff=False),
    )


def test_a_session_stays_and_the_rest_is_spread() -> None:
    router, replicas = router_of(["a", "b", "c"])

    def chosen(session: str) -> list[list[str]]:
        groups = asyncio.run(router.choose_replicas(replicas, asked(session)))
        return [[replica.replica_id.unique_id for replica in group] for group in groups]

    of_session = {session: chosen(session) for session in map(str, range(30))}
    assert all(chosen(session) == before for session, before in of_session.items())
    firsts = Counter(groups[0][0] for groups in of_session.values())
    assert set(firsts) == {"a", "b", "c"}
    assert all(len(group) == 1 for groups in of_session.values() for group in groups)
    of_none = [chosen("") for _ in range(60)]
    assert all(len(groups) == 1 and len(set(groups[0])) == 2 for groups in of_none)
    assert {name for (group,) in of_none for name in group} == {"a", "b", "c"}
