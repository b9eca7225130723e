"""Log files: their lines, a folder a launch, a file a process; Ray's own files get everything too."""

import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from steper_ray.errors import InputError
from steper_ray.ray_runtime.log_lines import LineFormatter
from steper_ray.ray_runtime.logs import (
    OUR_LOGGER,
    LaunchLog,
    launch,
    logging_to,
    new_launch,
    stderr_to,
)

logger = logging.getLogger("steper_ray.of_a_test")

ACTOR = """
import logging, os, subprocess, sys
from pathlib import Path
from steper_ray.ray_runtime.logs import LaunchLog, start_log
start_log(LaunchLog(Path(sys.argv[1]), sys.argv[2]), "chains", int(sys.argv[3]))
print("printed by", sys.argv[3], flush=True)
logging.getLogger("steper_ray.chains").warning("logged by %s", sys.argv[3])
subprocess.run([sys.executable, "-c", "print('printed by a child')"])
os.write(2, b"50 %\\r100 %\\n\\nlast words")
os._exit(1)
"""
"""What an actor does, without Ray; it ends as a crash does."""


def until(holds: Callable[[], bool]) -> None:
    """Return as soon as something holds; fails after some seconds."""
    limit = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.02)


def record(message: str, exc_info: Any = None) -> logging.LogRecord:
    """A record of the first second of 2026, UTC."""
    made = logging.LogRecord("steper_ray.x", logging.WARNING, "", 0, message, None, exc_info)
    made.created = 1767225600.25
    return made


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("")
    for logs in (file, file / "logs" / "index"):
        with pytest.raises(InputError) as caught:
            new_launch(logs, "text")
        assert str(caught.value) == f"run.dir: {file} is a file; name a folder"


def test_a_run_folder_that_cannot_be_made_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"^run\.dir: /proc/x/logs cannot be written to \(.+\); name a"
    ):
        new_launch(Path("/proc/x/logs"), "text")


def test_a_line_of_text() -> None:
    lines = LineFormatter("text", "worker", 3)
    head = "2026-01-01T00:00:00.250+00:00 worker 3 WARNING steper_ray.x: "
    assert lines.format(record("σ is low")) == head + "σ is low"
    try:
        raise ValueError("no such thing")
    except ValueError:
        shown = lines.format(record("failed", sys.exc_info())).splitlines()
    assert all(line.startswith(head) for line in shown)
    assert shown[0] == head + "failed"
    assert shown[-1] == head + "ValueError: no such thing"


def test_a_line_of_json() -> None:
    line = LineFormatter("json", "worker", 3).format(record("two\nlines, σ"))
    assert "\n" not in line
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250+00:00",
        "role": "worker",
        "rank": 3,
        "level": "WARNING",
        "logger": "steper_ray.x",
        "message": "two\nlines, σ",
    }


def test_each_launch_has_a_folder_and_latest_leads_to_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "logs" / "build"
    with launch(folder) as first:
        logger.info("of the first")
        assert (folder / "latest").resolve() == first.folder
    with launch(folder) as second:  # mostly in the same second
        logger.info("of the second")
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        [first.folder.name, second.folder.name, "latest"]
    )
    assert (folder / "latest").resolve() == second.folder
    for log, name in ((first, "first"), (second, "second")):
        (line,) = log.file("driver", 0).read_text().splitlines()
        assert line.endswith(f"driver 0 INFO steper_ray.of_a_test: of the {name}")


def test_launches_of_the_same_second_are_not_one(tmp_path: Path) -> None:
    logs = [new_launch(tmp_path, "text") for _ in range(5)]
    assert len({log.folder for log in logs}) == 5
    assert (tmp_path / "latest").resolve() == logs[-1].folder


def test_a_stage_within_a_stage_writes_to_its_log(tmp_path: Path) -> None:
    with (
        launch(tmp_path / "compare", "json") as outer,
        launch(tmp_path / "train") as inner,
    ):
        assert inner == outer
    assert not (tmp_path / "train").exists()


def test_what_is_logged_is_not_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, before = new_launch(tmp_path, "text"), (OUR_LOGGER.level, OUR_LOGGER.propagate)
    with logging_to(log, "driver"), stderr_to(log):
        logger.error("logged")
        os.write(2, b"said by Ray's core\n")
    assert capfd.readouterr() == ("", "")
    os.write(2, b"after it\n")
    assert capfd.readouterr().err == "after it\n"
    until(lambda: "said by Ray's core" in log.file("driver", 0).read_text())
    assert (OUR_LOGGER.level, OUR_LOGGER.propagate) == before
    shown = log.file("driver", 0).read_text()
    assert "driver 0 ERROR steper_ray.of_a_test: logged\n" in shown
    assert "driver 0 INFO stderr: said by Ray's core\n" in shown
    assert "after it" not in shown


def run_actors(tmp_path: Path, form: str) -> tuple[list[str], list[str]]:
    """Two actors at the same time: what each writes to the terminal's place, and its file."""
    actors = [
        subprocess.Popen(
            [sys.executable, "-c", ACTOR, str(tmp_path), form, str(rank)],
            stdout=(tmp_path / f"{rank}.out").open("w"),
            stderr=(tmp_path / f"{rank}.err").open("w"),
        )
        for rank in (0, 1)
    ]
    assert [actor.wait() for actor in actors] == [1, 1]
    files = [tmp_path / f"chains-{rank}.log" for rank in (0, 1)]
    until(lambda: all("last words" in file.read_text() for file in files))
    rays = [
        b"".join((tmp_path / f"{rank}.{name}").read_bytes() for name in ("out", "err")).decode()
        for rank in (0, 1)
    ]
    return rays, [file.read_text() for file in files]


def test_two_actors_write_apart_and_their_last_words_are_kept(tmp_path: Path) -> None:
    for rank, (rays, ours) in enumerate(zip(*run_actors(tmp_path, "text"), strict=True)):
        said = sorted(line.partition(f" chains {rank} ")[2] for line in ours.splitlines())
        assert said == [
            "INFO stderr: 100 %",
            "INFO stderr: last words",
            f"INFO stdout: printed by {rank}",
            "INFO stdout: printed by a child",
            f"WARNING steper_ray.chains: logged by {rank}",
        ]
        assert rays.startswith(f"printed by {rank}\nprinted by a child\n")
        assert f" chains {rank} WARNING steper_ray.chains: logged by {rank}\n" in rays
        assert rays.endswith("50 %\r100 %\n\nlast words")


def test_every_line_is_json(tmp_path: Path) -> None:
    for rank, ours in enumerate(run_actors(tmp_path, "json")[1]):
        lines = [json.loads(line) for line in ours.splitlines()]
        assert {(line["role"], line["rank"]) for line in lines} == {("chains", rank)}
        assert {line["logger"]: line["level"] for line in lines} == {
            "stdout": "INFO",
            "stderr": "INFO",
            "steper_ray.chains": "WARNING",
        }


def test_a_restarted_actor_appends(tmp_path: Path) -> None:
    run_actors(tmp_path, "text")
    run_actors(tmp_path, "text")
    file = tmp_path / "chains-0.log"
    until(lambda: file.read_text().count("last words") == 2)


def test_an_actors_output_reaches_rays_own_file_and_ours(ray_cluster: None, tmp_path: Path) -> None:
    import ray

    class Speaker:
        def speak(self, log: LaunchLog) -> tuple[str, ...]:
            from steper_ray.ray_runtime.logs import start_log

            rays = tuple(str(Path(f"/proc/self/fd/{number}").readlink()) for number in (1, 2))
            start_log(log, "chains", 0)
            print("printed in an actor")
            logging.getLogger("steper_ray.chains").info("logged in an actor")
            return rays

    log = new_launch(tmp_path, "text")
    remote: Any = ray.remote(num_cpus=0)
    speaker = remote(Speaker).remote()
    out, err = map(Path, ray.get(speaker.speak.remote(log)))
    assert re.fullmatch(r"worker-.*\.out", out.name)
    ours = log.file("chains", 0)
    until(lambda: "printed in an actor" in ours.read_text())
    until(lambda: "printed in an actor\n" in out.read_text())
    assert "chains 0 INFO stdout: printed in an actor\n" in ours.read_text()
    for file in (ours, err):
        assert "chains 0 INFO steper_ray.chains: logged in an actor\n" in file.read_text()
    ray.kill(speaker)
