"""Stages submitted over HTTP to a Ray head, as `ray job submit` does it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.pipeline.commands import all_commands
from steper_ray.pipeline.reference import job_path
from steper_ray.run.config import RunConfig
from tests.processes import titled
from tests.ray_head import Head, running_head

ROOT: Final = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    with running_head() as head:
        yield head


def test_every_command_but_those_about_jobs_has_a_job() -> None:
    scripts = {f"jobs/{path.name}" for path in ROOT.glob("jobs/*.py")}
    commands = all_commands()
    assert scripts == {job_path(name) for name in commands if commands[name].has_job}
    without = {name for name in commands if not commands[name].has_job}
    assert without == {"submit", "status", "logs", "stop"}


@pytest.mark.engine
def test_request_without_the_token_is_refused(head: Head) -> None:
    assert httpx.get(f"{head.url}/api/jobs/", timeout=30).status_code == 401


@pytest.mark.engine
def test_submitted_stage_writes_its_result(head: Head, tmp_path: Path) -> None:
    options = ["--config", "jobs/configs/toy.yaml", "--set", f"run.dir={tmp_path}"]
    small = ["--set", "toy.scale=0.1", "--set", "toy.train=40", "--set", "toy.dev=10"]
    done = head.submit("toy", "python", "jobs/toy.py", *options, *small, "--set", "toy.test=10")
    assert done.returncode == 0, done.stdout + done.stderr
    assert head.job("toy")["status"] == "SUCCEEDED"
    assert pq.read_metadata(tmp_path / "toy" / "train.parquet").num_rows == 40
    assert pq.read_metadata(tmp_path / "toy" / "dev.parquet").num_rows == 10
    (sent,) = head.folder.glob("session_2*/runtime_resources/working_dir_files/_ray_pkg_*/")
    names = {path.name for path in sent.iterdir()}
    assert {"jobs", "steper_ray", "pyproject.toml"} <= names
    assert not names & {".git", ".venv", "runs", "tests"}


@pytest.mark.engine
def test_job_with_a_broken_run_file_fails(head: Head, tmp_path: Path) -> None:
    options = ["--set", f"run.dir={tmp_path}", "--set", "toy.sede=1"]
    done = head.submit(
        "broken", "python", "jobs/toy.py", "--config", "jobs/configs/toy.yaml", *options
    )
    assert done.returncode != 0
    job = head.job("broken")
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    assert "toy.sede: unknown key; did you mean seed?" in done.stdout
    assert not any(tmp_path.iterdir())


@pytest.mark.engine
def test_a_driver_that_is_killed_leaves_no_engine_on_the_cluster_that_it_joined(
    head: Head, toy_corpus: RunConfig, slow_model: Path, tmp_path: Path
) -> None:
    """In the middle of a step of a model that is busy for minutes."""
    (tmp_path / "corpus.lance").symlink_to(toy_corpus.folder.corpus)
    sets = [f"run.dir={tmp_path}", f"questions.train={toy_corpus.questions.train}"]
    sets.append(f"build.teacher={slow_model}")
    options = [part for one in sets for part in ("--set", one)]
    with (tmp_path / "output").open("w") as output:
        driver = subprocess.Popen(
            [sys.executable, "-m", "steper_ray.cli", "build", "--config", TOY_RUN_FILE, *options],
            env={**head.environment, "RAY_ADDRESS": head.address},
            stdout=output,
            stderr=output,
        )

    def engines() -> list[psutil.Process]:
        return titled("EngineCore", psutil.Process().children(recursive=True))

    def actors() -> list[psutil.Process]:
        return titled("ChainActor", psutil.Process().children(recursive=True))

    try:
        deadline = time.monotonic() + 300
        while not (found := engines()) or found[0].cpu_times().user < 30:
            assert driver.poll() is None, (tmp_path / "output").read_text()[-2000:]
            assert time.monotonic() < deadline, "no engine is at work"
            time.sleep(0.2)
        assert actors()
    finally:
        driver.kill()
        driver.wait()
    deadline = time.monotonic() + 60  # less than 10 s after Ray has seen the end, on a free core
    while engines() or actors():
        assert time.monotonic() < deadline, [*engines(), *actors()]
        time.sleep(0.2)
    assert head.get(f"{head.url}/api/version").is_success, "the cluster itself goes on"
