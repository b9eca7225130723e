"""A Prometheus that scrapes the tests' Ray, for tests that look for series."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

SCRAPED_EVERY: Final = "5s"
"""A scrape must end within it, and the page has the series of all earlier tests' actors."""


def binary() -> str | None:
    """The Prometheus to start."""
    own = Path(sys.executable).parent / "prometheus"
    return str(own) if own.is_file() else shutil.which("prometheus")


@pytest.fixture(scope="module")
def query(
    ray_cluster: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], list[Any]] | None]:
    """Asks a Prometheus that scrapes this session's Ray every few seconds; None where there is none."""
    import ray

    found = binary()
    if found is None:
        yield None
        return
    folder = tmp_path_factory.mktemp("prometheus")
    (node,) = ray.nodes()
    target = f"{node['NodeManagerAddress']}:{node['MetricsExportPort']}"
    scraped = {"job_name": "ray", "static_configs": [{"targets": [target]}]}
    config = {"global": {"scrape_interval": SCRAPED_EVERY}, "scrape_configs": [scraped]}
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                found,
                f"--config.file={folder}/prometheus.yml",
                f"--storage.tsdb.path={folder}/data",
                f"--web.listen-address={url.removeprefix('http://')}",
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )

    def ask(expression: str) -> list[Any]:
        """The largest value of each series so far: those of an actor end with it."""
        over_time = f"max_over_time(({expression})[30m:1s])"
        reply = httpx.get(f"{url}/api/v1/query", params={"query": over_time}, timeout=30)
        values = reply.json()
        assert values["status"] == "success", (expression, values)
        result = values["data"]["result"]
        assert isinstance(result, list)
        return result

    try:
        deadline = time.monotonic() + 60
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            try:
                if httpx.get(f"{url}/-/ready", timeout=5).is_success:
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.2)
        yield ask
    finally:
        process.terminate()
        process.wait(timeout=30)
