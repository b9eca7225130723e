"""A function over many items: on the cluster's cores where Ray is connected, else in this process."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import TypeVar

from steper_ray.errors import find_steper_error

Item = TypeVar("Item")


Result = TypeVar("Result")


def parallel_map(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """The function of each item, in order: on the cluster's cores where Ray is connected, else here.

    Also here in a process whose tasks would have to find room among its own resources, as a trial of a
    sweep, where these are its workers'.

    Raises what the function raises, if it is an error of steper_ray.
    """
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized() or _has_own_resources():
        yield from map(function, items)
        return
    work = ray.remote(num_cpus=1)(lambda item: function(item))
    waiting = iter(items)
    most = 2 * max(1, int(ray.cluster_resources().get("CPU", 1)))
    running = deque(work.remote(item) for item in islice(waiting, most))
    while running:
        try:
            yield ray.get(running.popleft())
        except ray.exceptions.RayTaskError as error:
            if (known := find_steper_error(error)) is not None:
                raise known from None
            raise
        running.extend(work.remote(item) for item in islice(waiting, 1))


def _has_own_resources() -> bool:
    """Whether this process is in a placement group, in which its tasks would have to find room."""
    from ray.util import get_current_placement_group

    return get_current_placement_group() is not None
