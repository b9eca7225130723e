"""A Ray head of a test's own, with its own ports, folder and token, of which nothing is left."""

import json
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
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

HEAD_ID: Final = "f" * 51 + "00000"
"""The node's id of the head, by which the fake provider knows it."""


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
def running_head(*options: str, kinds: Mapping[str, Any] | None = None) -> Iterator[Head]:
    """Starts `ray start --head` in a home and temporary folder of its own; leaves nothing behind.

    options: more ones of `ray start`
    kinds:   kinds of nodes that Ray's autoscaler may add on this machine, as a launcher's
             `available_node_types`; None starts no autoscaler
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
    if kinds is not None:
        config = folder / "autoscaler.json"
        config.write_text(json.dumps(autoscaling_config(kinds, f"127.0.0.1:{ports[0]}")))
        given.append(f"--autoscaling-config={config}")
        environment |= {
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            # as `ray up` starts it, and KubeRay
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
        }
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


def autoscaling_config(kinds: Mapping[str, Any], gcs_address: str) -> dict[str, Any]:
    """What the autoscaler is started with; its nodes are processes of this machine (Ray's fake provider).

    By its short name it would take its defaults from a file that Ray's wheel lacks.
    """
    provider = {
        "type": "external",
        "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
        "launch_multiple": True,
        "head_node_id": HEAD_ID,
        "gcs_address": gcs_address,
    }
    head = {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0}
    commands = ("setup", "head_setup", "worker_setup", "initialization")
    return {
        "cluster_name": "test",
        "provider": provider,
        "max_workers": 8,
        "idle_timeout_minutes": 5,
        "upscaling_speed": 1.0,
        "available_node_types": {"ray.head.default": head, **kinds},
        "head_node_type": "ray.head.default",
        **{key: {} for key in ("auth", "docker", "file_mounts")},
        **{f"{name}_commands": [] for name in commands},
        **{f"{name}_start_ray_commands": [] for name in ("head", "worker")},
        **{key: [] for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
        "file_mounts_sync_continuously": False,
    }


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
    """End the head, and see that nothing it started lives on."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=3)
    for left in alive:
        with suppress(psutil.NoSuchProcess):  # it has ended by now
            left.kill()
    psutil.wait_procs(alive, timeout=10)
    assert len(family) > 3
    assert not [left for left in family if left.is_running()]
