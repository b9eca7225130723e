"""The Ray of a command: the cluster that RAY_ADDRESS names, or a local one that ends with the command."""

import logging
import os
import secrets
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from steper_ray.ray_runtime.logs import quieten
from steper_ray.ray_runtime.serve_environment import SERVE_SETTINGS


@contextmanager
def ray_session() -> Iterator[None]:
    """A connected Ray; a local cluster started here ends with the block.

    Usage telemetry is off. Workers find the environment's tools (ninja) on their PATH.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name, value in SERVE_SETTINGS.items():
        os.environ.setdefault(name, value)
    bin_folder = str(Path(sys.executable).parent)
    if bin_folder not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([bin_folder, os.environ.get("PATH", "")])
    address = os.environ.get("RAY_ADDRESS") or None
    if address is None:
        os.environ.pop("RAY_ADDRESS", None)  # Ray would take an empty one for an address
        # One more process in every training; it asks Ray for nodes that are about to be taken away.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")
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
