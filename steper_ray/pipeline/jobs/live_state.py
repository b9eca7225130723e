"""How far a stage is, in a file that others read while it runs: `logs/<stage>/<attempt>/state.json`.

In a submitted job a copy lies among Ray's logs of that node, where the job API reads it from outside.
"""

import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Literal

from steper_ray.errors import find_steper_error
from steper_ray.files import write_whole
from steper_ray.ray_runtime.progress import StageProgress
from steper_ray.ray_runtime.watch import calling_every
from steper_ray.run.process import process_runs, process_started
from steper_ray.text import short_message

STATE_FILE: Final = "state.json"


WRITE_EVERY_S: Final = 5.0


SILENT_S: Final = 60.0
"""A stage that has written nothing for so long has been killed, or its machine is gone."""


JOB_ID: Final = "STEPER_JOB_ID"
"""Environment variable of a submitted job with its id."""


def copy_name(job: str) -> str:
    """What the copy of a job's state is called among Ray's logs."""
    return f"steper-state-{job}.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """How far a stage is."""

    stage: str
    host: str
    pid: int
    process_started: float
    """From `process_started`: tells the process from a later one with its id."""
    job: str | None = None
    """Id of the submitted job that it runs in."""
    started: float
    """Seconds since 1970; likewise `updated`."""
    updated: float
    done: float = 0
    total: float = 0
    """Of what `detail` names; 0 while it is not known."""
    detail: str = ""
    granted: dict[str, int] = field(default_factory=dict)
    """Resources that its actors and placement groups hold (`1 CPU + 0.5 GPU`), and how many times."""
    waits_for: dict[str, int] = field(default_factory=dict)
    """Likewise, what they asked for and do not have."""
    error: str | None = None
    ended: Literal["done", "failed", "stopped"] | None = None

    @property
    def per_second(self) -> float | None:
        """What is done in a second, since the start; None before anything is."""
        seconds = self.updated - self.started
        return self.done / seconds if self.done > 0 and seconds > 0 else None


@contextmanager
def reported(stage: str, progress: StageProgress, folder: Path) -> Iterator[None]:
    """Keep the state of a stage in the folder of its launch while the block runs, and how it ended.

    folder: of the launch's logs
    """
    now, pid = time.time(), os.getpid()
    state = StageState(
        stage=stage,
        host=socket.gethostname(),
        pid=pid,
        process_started=process_started(pid) or 0.0,
        job=os.environ.get(JOB_ID) or None,
        started=now,
        updated=now,
    )
    write_state(folder, state)
    held: dict[str, dict[str, int]] = {}

    def newest() -> StageState:
        done, total, detail = progress.newest
        return replace(
            state,
            updated=time.time(),
            done=done,
            total=total,
            detail=detail,
            granted=held.get("granted", {}),
            waits_for=held.get("waits_for", {}),
        )

    def write() -> None:
        held.update(_resources())
        with suppress(OSError):  # a full disk; the stage itself will say so
            write_state(folder, newest())

    ended: dict[str, Any] = {"ended": "done"}
    try:
        with calling_every(WRITE_EVERY_S, write):
            yield
    except KeyboardInterrupt:
        ended = {"ended": "stopped"}
        raise
    except BaseException as error:
        known = find_steper_error(error)
        ended = {"ended": "failed", "error": short_message(known or error, longest=500)}
        raise
    finally:
        held.clear()  # what ran has ended with the stage
        with suppress(OSError):
            write_state(folder, replace(newest(), **ended))


def _resources() -> dict[str, dict[str, int]]:
    """What the stage holds and waits for, if Ray runs."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return {}
    from steper_ray.ray_runtime.waiting import resource_requests

    requests = resource_requests()
    return {"granted": dict(requests.granted), "waits_for": dict(requests.pending)}


def write_state(folder: Path, state: StageState) -> None:
    """Write a state to the folder of its launch, and in a job also among Ray's logs."""
    text = json.dumps(asdict(state), ensure_ascii=False)
    write_whole(folder / STATE_FILE, text + "\n")
    if state.job is not None and (logs := _ray_logs()) is not None:
        with suppress(OSError):
            write_whole(logs / copy_name(state.job), text + "\n")


def _ray_logs() -> Path | None:
    """The folder of Ray's logs on this node; None where this process has joined none."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return None
    node = ray._private.worker._global_node
    return None if node is None else Path(node.get_logs_dir_path())


def read_state(text: str) -> StageState | None:
    """A state as it was written; None for what is none. Keys of later versions are left out."""
    try:
        values = json.loads(text)
        known = {name.name for name in fields(StageState)}
        return StageState(**{key: value for key, value in values.items() if key in known})
    except (ValueError, TypeError, AttributeError):
        return None


def read_states(logs: Path) -> dict[Path, StageState]:
    """The state of one launch of every stage, by the folder of that launch; the newest last.

    That is the newest launch, but one that runs comes before those that have ended since, as they do when
    they are refused because it runs.

    logs: the folder of a run's logs
    """
    by_stage: dict[Path, dict[Path, StageState]] = {}
    for file in logs.glob(f"*/*/{STATE_FILE}"):
        if (state := read_state(file.read_text(encoding="utf-8"))) is not None:
            by_stage.setdefault(file.parents[1], {})[file.parent.resolve()] = state

    def order(item: tuple[Path, StageState]) -> tuple[bool, float]:
        return is_running(item[1]), item[1].started

    newest = [max(launches.items(), key=order) for launches in by_stage.values()]
    return dict(sorted(newest, key=order))


def is_running(state: StageState) -> bool:
    """Whether the stage still runs: on this machine by its process, on others by its last sign of life."""
    if state.ended is not None:
        return False
    if state.host == socket.gethostname():
        return process_runs(state.pid, state.process_started)
    return time.time() - state.updated < SILENT_S
