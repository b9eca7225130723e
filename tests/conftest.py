"""What the tests share: a Ray of their own, a small toy world, and a folder for what is temporary."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.config import RunConfig, load_config

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)

ROOT = Path(__file__).parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Let vLLM, torch and killed workers leave their sockets and files where they are removed."""
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir())  # of pytest's own
    folder = tempfile.mkdtemp(prefix="steper-", dir="/tmp")  # sockets need a short path
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray for the whole session, gone afterwards."""
    import ray

    from steper_ray.session import ray_session

    os.environ["RAY_TMPDIR"] = tempfile.gettempdir()
    with ray_session():
        yield
    assert not ray.is_initialized()
    del os.environ["RAY_TMPDIR"]


@pytest.fixture(scope="session")
def toy_corpus(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """The full toy world of a seed no model was trained on, indexed."""
    from steper_ray.stages import run_stage

    folder = tmp_path_factory.mktemp("toy")
    config = load_config(TOY_RUN_FILE, [f"run.dir={folder}", "toy.seed=3"])
    run_stage("toy", config)
    run_stage("index", config)
    return config


@pytest.fixture(scope="session")
def free_port() -> int:
    """A port that nothing listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
