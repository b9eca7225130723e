"""A Ray head of a test's own, with its own ports, folder and token, of which nothing is left."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import psutil
import pytest

ROOT: Final = Path(__file__).parents[1]
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


@contextmanager
def running_head(*options: str) -> Iterator[Head]:
    """Starts `ray start --head` in a home and temporary folder of its own; leaves nothing behind.

    options: more ones of `ray start`
    """
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
    given = [f"{name}={port}" for name, port in zip(PORTS, ports, strict=True)]
    given += ["--num-cpus=2", "--object-store-memory=200000000", *options]
    with (folder / "head.log").open("w") as log:
        process = subprocess.Popen(
            [*RAY, "start", "--head", "--block", f"--temp-dir={folder}", *given],
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
