"""The state of a stage, written while it runs and read by others."""

import os
import socket
import time
from dataclasses import replace
from pathlib import Path

import pytest

from steper_ray.errors import StageError
from steper_ray.pipeline.jobs import live_state
from steper_ray.pipeline.jobs.live_state import (
    STATE_FILE,
    StageState,
    is_running,
    read_state,
    read_states,
    reported,
    write_state,
)
from steper_ray.pipeline.jobs.status import StageReport, show_status, stop
from steper_ray.ray_runtime.progress import StageProgress
from steper_ray.run.config import RunConfig
from steper_ray.run.process import process_started


def state_in(folder: Path) -> StageState:
    state = read_state((folder / STATE_FILE).read_text())
    assert state is not None
    return state


def test_state_of_a_stage_from_start_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_state, "WRITE_EVERY_S", 0.01)
    progress = StageProgress("build", None, None)
    with reported("build", progress, tmp_path):
        first = state_in(tmp_path)
        assert (first.stage, first.pid, first.host) == ("build", os.getpid(), socket.gethostname())
        assert (first.done, first.total, first.ended) == (0, 0, None)
        assert is_running(first)
        progress.count(30, 600)
        deadline = time.monotonic() + 10
        while state_in(tmp_path).done == 0:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert state_in(tmp_path).detail == "30/600 questions"
    last = state_in(tmp_path)
    assert (last.done, last.total, last.ended, last.error) == (30, 600, "done", None)
    assert not is_running(last)


@pytest.mark.parametrize(
    ("error", "ended", "said"),
    [
        (StageError("train: a worker failed"), "failed", "train: a worker failed"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        (KeyboardInterrupt(), "stopped", None),
    ],
)
def test_state_says_how_a_stage_ended(
    tmp_path: Path, error: BaseException, ended: str, said: str | None
) -> None:
    with (
        pytest.raises(type(error)),
        reported("train", StageProgress("train", None, None), tmp_path),
    ):
        raise error
    assert (state_in(tmp_path).ended, state_in(tmp_path).error) == (ended, said)


HOUR: StageState = StageState(
    stage="build",
    host="elsewhere",
    pid=7,
    process_started=1.0,
    started=1000.0,
    updated=1100.0,
    done=50,
    total=200,
    detail="50/200 questions",
)


def test_speed_is_of_the_time_since_the_start() -> None:
    assert HOUR.per_second == 0.5
    assert replace(HOUR, done=0).per_second is None


def test_running_here_is_told_by_the_process_and_elsewhere_by_signs_of_life() -> None:
    assert not is_running(HOUR)
    assert is_running(replace(HOUR, updated=time.time()))
    started = process_started(os.getpid())
    assert started is not None
    here = replace(HOUR, host=socket.gethostname(), pid=os.getpid(), process_started=started)
    assert is_running(here)
    assert not is_running(replace(here, process_started=started - 100))  # a later one with its id
    assert not is_running(replace(here, ended="failed"))


def test_state_of_a_later_version_is_read_and_no_state_is_none() -> None:
    assert read_state('{"stage": "x"}') is None
    assert read_state("[]") is None
    assert read_state("") is None
    text = (
        '{"stage": "x", "host": "h", "pid": 1, "process_started": 1, "started": 2, "updated": 3, '
        '"added_later": 4}'
    )
    state = read_state(text)
    assert state is not None
    assert (state.stage, state.updated) == ("x", 3)


def run_with(folder: Path, *states: StageState) -> RunConfig:
    for state in states:
        write_state(folder / "logs" / state.stage / "latest", state)
    return RunConfig.model_validate({"run": {"dir": str(folder)}})


def test_stages_are_in_the_order_of_their_start(tmp_path: Path) -> None:
    config = run_with(tmp_path, HOUR, replace(HOUR, stage="index", started=10.0))
    assert [state.stage for state in read_states(config.folder.logs).values()] == ["index", "build"]


def test_a_running_launch_is_not_hidden_by_later_ones_that_were_refused(tmp_path: Path) -> None:
    now, pid = time.time(), os.getpid()
    runs = replace(
        HOUR,
        host=socket.gethostname(),
        pid=pid,
        process_started=process_started(pid) or 0.0,
        started=now - 60,
        updated=now,
    )
    refused = replace(HOUR, pid=8, started=now - 5, ended="failed", error="another command")
    logs = tmp_path / "logs"
    first, second = logs / "build" / "2026-01-01T00-00-00", logs / "build" / "2026-01-01T00-01-00"
    write_state(first, runs)
    write_state(second, refused)
    (logs / "build" / "latest").symlink_to(second.name)
    write_state(logs / "train" / "latest", replace(refused, stage="train"))
    states = read_states(logs)
    assert [(state.stage, state.pid) for state in states.values()] == [("train", 8), ("build", pid)]
    assert list(states)[-1] == first, "whose log `steper logs` prints"
    write_state(first, replace(runs, ended="done"))
    assert [state.pid for state in read_states(logs).values()] == [8, 8]


def test_status_of_stages_started_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_DASHBOARD_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    done = replace(HOUR, stage="index", started=10.0, updated=40.0, total=0, ended="done")
    config = run_with(tmp_path, HOUR, done)
    assert show_status(config, None, None) == 0
    assert capsys.readouterr().out.splitlines() == [
        " index  done, 0:00:30 on elsewhere (process 7)",
        " build  lost, 0:01:40 on elsewhere (process 7)",
        "        50 of 200: 50/200 questions, 0.5 a second since the start",
        "        it gives no sign of life: its process was killed, or its machine is gone",
    ]
    assert show_status(run_with(tmp_path / "empty"), None, None) == 0
    assert "nothing has run in" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no stage of this run is running"):
        stop(config, None, None)
    with pytest.raises(ValueError, match=r"steper-x: which cluster is it on\?"):
        stop(config, "steper-x", None)


def test_running_stage_says_what_it_has_and_what_it_waits_for() -> None:
    state = replace(
        HOUR,
        started=time.time() - 100,
        updated=time.time(),
        granted={"1 CPU": 2},
        waits_for={"4 GPU": 1},
    )
    head, progress, resources = StageReport(
        stage="build", status="running", job="j", state=state
    ).lines()
    assert head.startswith(" build  running, job j, 0:01:40 on elsewhere")
    assert progress == "        50 of 200: 50/200 questions, 0.5 a second since the start"
    assert resources == "        has 2 × (1 CPU); waits for 1 × (4 GPU)"
