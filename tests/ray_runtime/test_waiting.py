"""A stage that waits for resources says so."""

import signal
import time
from typing import Any

import pytest

from steper_ray.errors import StageError
from steper_ray.ray_runtime.room import amounts
from steper_ray.ray_runtime.waiting import NOTHING, resource_requests, telling_of_waits


def test_amounts_in_words() -> None:
    assert amounts({"GPU": 0.5, "CPU": 2.0, "memory": 0, "node:10.0.0.1": 0.01}) == (
        "2 CPU + 0.5 GPU"
    )
    assert amounts({"CPU": 0.0, "node:10.0.0.1": 0.01}) == NOTHING


def test_what_is_waited_for_is_said_once(
    ray_cluster: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """A placement group, and an actor outside of any; what has its resources is no such thing."""
    import ray
    from ray.util import placement_group, remove_placement_group

    class Busy:
        def __init__(self) -> None:
            time.sleep(60)

    remote: Any = ray.remote
    busy = remote(num_cpus=0)(Busy).remote()
    group = placement_group([{"CPU": 1, "GPU": 1}] * 2)
    actor = remote(num_cpus=4000)(Busy).remote()
    with telling_of_waits("train", patience_s=3):
        limit = time.monotonic() + 60
        shown = ""
        while shown.count("\n") < 2 and time.monotonic() < limit:
            time.sleep(0.1)
            shown += capsys.readouterr().out
        time.sleep(3)
    shown += capsys.readouterr().out
    lines = sorted(line.partition(";")[0] for line in shown.splitlines())
    assert lines == [
        " train  waits for room: needs 1 × (4000 CPU)",
        " train  waits for room: needs 2 × (1 CPU + 1 GPU)",
    ]
    remove_placement_group(group)
    # As many as start at once wait for their processes, but for no resources.
    idle = [remote(num_cpus=0)(Busy).remote() for _ in range(3)]
    assert NOTHING not in resource_requests().pending
    for one in (busy, actor, *idle):
        ray.kill(one)
    limit = time.monotonic() + 30
    while resource_requests().pending:
        assert time.monotonic() < limit
        time.sleep(0.1)


@pytest.mark.parametrize("blocked", [False, True])
def test_a_wait_ends_at_its_limit(ray_cluster: None, blocked: bool) -> None:
    """In a job too, whose SIGINT Ray blocks."""
    import ray
    from ray.util import placement_group, remove_placement_group

    group = placement_group([{"CPU": 1, "GPU": 1}])
    said = (
        r"^train: no room for 1 × \(1 CPU \+ 1 GPU\) within 0\.0333 minutes "
        r"\(run\.wait_for_room_minutes\); free are .*; give the same command again"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT} if blocked else set())
    try:
        with (
            pytest.raises(StageError, match=said),
            telling_of_waits("train", patience_s=1, limit_s=2),
        ):
            ray.get(group.ready(), timeout=60)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        remove_placement_group(group)
