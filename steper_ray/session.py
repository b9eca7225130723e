"""Joins the Ray cluster that RAY_ADDRESS names, or starts one here for as long as a command runs."""

import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

SERVE_SETTINGS: Final = {
    "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "steper_ray.serving.front:middlewares",
    # a question is seven calls between replicas: without these each costs twice the CPU time
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_LOG_TO_STDERR": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
    "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
}
"""What Serve's proxies and replicas read from the environment of the Ray that they run in. A cluster that
is there already was started with its own: `cluster/` sets the same."""


@contextmanager
def ray_session() -> Iterator[None]:
    """A connected Ray; a local cluster started here ends with the block.

    Usage telemetry is off. Workers find the environment's tools (ninja) on their PATH.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name, value in SERVE_SETTINGS.items():
        os.environ.setdefault(name, value)
    bin_folder = str(Path(sys.executable).parent)
    if bin_folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([bin_folder, os.environ.get("PATH", "")])
    address = os.environ.get("RAY_ADDRESS") or None
    if address is None:
        os.environ.pop("RAY_ADDRESS", None)  # Ray would take an empty one for an address
    if not address and "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        # A cluster for this command alone: its token lives and dies with the process. Ray reads the
        # variables when it is imported.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    if ray.is_initialized():
        yield
        return
    ours = signal.getsignal(signal.SIGTERM)
    ray.init(
        address=address,
        num_cpus=None if address else max(2, os.cpu_count() or 2),
        include_dashboard=None if address else False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    quieten()
    # Ray has put its own there, in Python and in its core: the one exits with 1, the other at once
    signal.signal(signal.SIGTERM, ours if callable(ours) else signal.getsignal(signal.SIGTERM))
    try:
        yield
    finally:
        ray.shutdown()


def redirect_output(log: Path) -> None:
    """Send what this process and its children print to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        sys.stdout.flush()
        sys.stderr.flush()
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


@contextmanager
def stderr_to(log: Path) -> Iterator[None]:
    """Send this process's standard error to a file while the block runs.

    Ray's C++ core writes there past every Python setting.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    screen = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(screen, 2)
        os.close(screen)


def quieten() -> None:
    """Leave the screen to the stages; Ray's own files keep what its libraries say.

    Libraries set their loggers up when they are first used; call it again after that.
    """
    for name in ("ray.train", "ray.serve", "ray.tune", "lance_ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
