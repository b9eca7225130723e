"""What the tests share: one Ray cluster of their own, and one small toy world on disk."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_AUTH_MODE"] = "token"
os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
os.environ.pop("RAY_ADDRESS", None)

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray for the whole session, in a temporary folder, gone afterwards."""
    import ray

    from steper_ray.session import ray_session

    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    os.environ["RAY_TMPDIR"] = folder
    with ray_session():
        yield
    assert not ray.is_initialized()
    del os.environ["RAY_TMPDIR"]
    shutil.rmtree(folder, ignore_errors=True)
