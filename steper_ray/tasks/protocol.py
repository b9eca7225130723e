"""The task protocol: how an answer is scored, and which scores count as right."""

from collections.abc import Mapping
from typing import Protocol

from steper_ray.schema import Question


class Task(Protocol):
    """A module of `steper_ray.tasks` that is an entry in TASKS."""

    def score(self, answer: str, question: Question) -> dict[str, float]:
        """Scores of an answer in [0, 1]: one for each name in `steper_ray.schema.SCORES`."""
        ...

    def is_right(self, scores: Mapping[str, float]) -> bool:
        """Whether an answer with these scores is right."""
        ...
