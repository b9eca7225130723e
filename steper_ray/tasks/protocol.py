"""The task protocol: how an answer is scored, and whether it is right."""

from typing import Protocol

from steper_ray.schema import Question


class Task(Protocol):
    """A module of `steper_ray.tasks` that is an entry in TASKS."""

    def score(self, answer: str, question: Question) -> dict[str, float]:
        """Scores of an answer in [0, 1], one for each name in `steper_ray.schema.SCORES`.

        `right`, 0 or 1, is what selection and second attempts go by.
        """
        ...
