"""The Ray of a command: the cluster that RAY_ADDRESS names, or a local one that ends with the command."""

import logging
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from steper_ray.errors import InputError, StageError
from steper_ray.ray_runtime.guard import MARK, guarded
from steper_ray.ray_runtime.logs import quieten
from steper_ray.ray_runtime.serve_environment import serve_settings
from steper_ray.text import short_message


@contextmanager
def ray_session() -> Iterator[None]:
    """A connected Ray; a local cluster started here ends with the block.

    Usage telemetry is off. Workers find the environment's tools (ninja) on their PATH.

    Raises InputError for a RAY_ADDRESS that no driver can join, StageError where Ray does not start.
    """
    check_address(os.environ.get("RAY_ADDRESS", ""))
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_DATA_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "WARNING")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    for name, value in serve_settings(os.environ).items():
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
    with _joined(address) if address else _started():
        yield


def check_address(address: str) -> None:
    """Raises InputError for an address in RAY_ADDRESS that a driver cannot join a cluster by."""
    if address.startswith(("ray://", "http://", "https://")):
        raise InputError(
            f"RAY_ADDRESS: a stage cannot join a cluster by {address}; on a node of the cluster set "
            "RAY_ADDRESS=auto or host:6379, from elsewhere give `steper submit` --address http://host:8265"
        )


@contextmanager
def _joined(address: str) -> Iterator[None]:
    """Connected to a running cluster, which ends the actors of this process with it."""
    import ray

    with _sigterm_kept():
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    quieten()
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _started() -> Iterator[None]:
    """A Ray of this process's own, of which nothing is left when the process has ended in any way."""
    import ray

    mark = secrets.token_hex(8)
    sockets = Path(tempfile.mkdtemp(prefix="steper-"))
    with guarded(mark) as guard:
        guard.removes(sockets)
        # what Ray's own processes are started with, and so all that they start
        environment = {MARK: mark, "VLLM_RPC_BASE_PATH": str(sockets)}
        with _environment(environment), _sigterm_kept():
            _start()
        quieten()
        try:
            guard.removes(Path(ray.nodes()[0]["RayletSocketName"]).parent)
            yield
        finally:
            ray.shutdown()


def _start() -> None:
    """Start Ray, and once more where it did not come up; raises StageError where it does not then."""
    import ray

    for attempt in (1, 2):
        try:
            ray.init(
                address="local",  # whatever other Ray there is on this machine
                num_cpus=max(2, os.cpu_count() or 2),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except Exception as error:  # Ray raises no narrower one
            reason = f"Ray did not start: {short_message(error)}"
            if attempt == 2:
                raise StageError(
                    f"{reason}; the machine may be too busy, or short of memory or of room in its "
                    "temporary folder (RAY_TMPDIR)"
                ) from error
            ray.shutdown()
            print(f"{reason}; it is started once more", file=sys.stderr, flush=True)
        else:
            return


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set while the block runs; those that are set already keep their values."""
    added = values.keys() - os.environ.keys()
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


@contextmanager
def _sigterm_kept() -> Iterator[None]:
    """Ray puts handlers of SIGTERM in place, in Python and in its core: one exits with 1, one at once."""
    ours = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, ours if callable(ours) else signal.getsignal(signal.SIGTERM))
