"""Stages submitted over HTTP to a Ray head, as `ray job submit` does it."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pyarrow.parquet as pq
import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.pipeline.commands import all_commands
from steper_ray.pipeline.reference import job_path
from steper_ray.run.config import RunConfig
from tests.processes import titled

ROOT: Final = Path(__file__).parents[2]
RAY: Final = (sys.executable, "-m", "ray.scripts.scripts")
PORTS: Final = (
    "--port",
    "--dashboard-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
    "--ray-client-server-port",
    "--metrics-export-port",
)


@dataclass(frozen=True, slots=True)
class Head:
    """A Ray head of the test's own."""

    url: str
    agent_url: str
    """Where the agent listens that starts the jobs."""
    address: str
    """Where drivers join it."""
    folder: Path
    environment: dict[str, str]

    def get(self, url: str) -> httpx.Response:
        """A reply to the bearer of the cluster's token."""
        token = self.environment["RAY_AUTH_TOKEN"]
        return httpx.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def submit(self, name: str, *entrypoint: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit` from the repository; its output is the job's log."""
        command = ["job", "submit", "--address", self.url, "--submission-id", name]
        return subprocess.run(
            [*RAY, *command, "--working-dir", ".", "--", *entrypoint],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def job(self, name: str) -> dict[str, Any]:
        """What the job API says about a job."""
        return dict(self.get(f"{self.url}/api/jobs/{name}").raise_for_status().json())


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    with ExitStack() as stack:
        probes = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """Starts `ray start --head` in a home and temporary folder of its own; leaves nothing behind."""
    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # short: Ray's sockets are below it
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {
        "HOME": str(folder),
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]]),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    ports = free_ports(len(PORTS))
    options = [f"{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    options += ["--num-cpus=2", "--object-store-memory=200000000"]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [*RAY, "start", "--head", "--block", f"--temp-dir={folder}", *options],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    url, agent_url = (f"http://127.0.0.1:{port}" for port in ports[1:3])
    head = Head(url, agent_url, f"127.0.0.1:{ports[0]}", folder, environment)
    try:
        _wait_until_ready(head, process)
        yield head
    finally:
        _end(process)
        shutil.rmtree(folder, ignore_errors=True)


def _wait_until_ready(head: Head, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, (head.folder / "head.log").read_text()
        try:
            if head.get(f"{head.agent_url}/api/local_raylet_healthz").is_success:
                head.get(f"{head.url}/api/version").raise_for_status()
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    pytest.fail("the head did not come up in two minutes")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the head as Ctrl-C would, and see that nothing it started lives on."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=30)
    for left in alive:
        with suppress(psutil.NoSuchProcess):  # it has ended by now
            left.kill()
    psutil.wait_procs(alive, timeout=10)
    assert len(family) > 3
    assert not [left for left in family if left.is_running()]


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
