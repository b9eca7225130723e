"""Tasks by name: what counts as a right answer."""

from typing import Final

from steper_ray.errors import InputError
from steper_ray.run.section import did_you_mean
from steper_ray.tasks import musique, qa
from steper_ray.tasks.protocol import Task

TASKS: Final[dict[str, Task]] = {"qa": qa, "musique": musique}


def task_named(name: str) -> Task:
    """The task of a name; raises InputError with the nearest name for an unknown one."""
    if name not in TASKS:
        hint = did_you_mean(name, TASKS) or f"choose one of {', '.join(TASKS)}"
        raise InputError(f"questions.task: no task is called {name!r}; {hint}")
    return TASKS[name]
