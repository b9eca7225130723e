"""Router of fused replicas: the requests of a session go to one replica, whose cache knows its prompts."""

import random
from typing import Any, Final

from ray.serve.experimental.consistent_hash_router import ConsistentHashRouter

CHOICES: Final = 2
"""Replicas of which a request without a session takes the less busy one."""


class SessionRouter(ConsistentHashRouter):
    """Requests with a session id by consistent hashing, as Ray's own; others by the power of two choices.

    All steps of a question stay in one replica anyway: it is conversations that a session keeps together.
    """

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Replicas to try, in groups: of a group the least busy one."""
        if pending_request is not None and pending_request.metadata.session_id:
            chosen: list[list[Any]] = await super().choose_replicas(
                candidate_replicas, pending_request
            )
            return chosen
        return [random.sample(candidate_replicas, min(CHOICES, len(candidate_replicas)))]
