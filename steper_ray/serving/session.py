"""A running server: from start to Ctrl-C, and how an update finds it."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from steper_ray.errors import InputError
from steper_ray.ray_runtime.logs import quieten
from steper_ray.ray_runtime.progress import stage_done, stage_progress
from steper_ray.serving.deploy import APP, DRAIN_S, deploy
from steper_ray.serving.overrides import served_model
from steper_ray.serving.preflight import (
    check_port,
    check_server,
    cluster_file,
    missing_resources,
    wait_for_room,
)

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


@contextmanager
def running_server(config: "RunConfig") -> Iterator[str]:
    """Serve the student while the block runs; yields its URL. Needs a running Ray.

    Raises InputError if the port is in use, StageError if the applications do not come up.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    quieten()
    check_server(config)
    host, port = config.serve.host, config.serve.port
    check_port(host, port)
    serve.start(
        http_options={
            "host": host,
            "port": port,
            # past the ingress's own deadline: for one that hangs
            "request_timeout_s": config.serve.request_timeout_s + DRAIN_S,
        },
        logging_config=LoggingConfig(log_level="WARNING"),
    )
    try:
        wait_for_room(config)
        deploy(config)
        with reachable(config):
            shown = f"[{host}]" if ":" in host else host
            yield f"http://{shown}:{port}"
    finally:
        # Ray says on the screen that it killed Serve's controller while that was shutting down.
        with config.folder.log("serve").open("a") as log, redirect_stdout(log):
            serve.shutdown()


@contextmanager
def reachable(config: "RunConfig") -> Iterator[None]:
    """Publish how an update reaches this Ray while the block runs, in a private file (it has a token)."""
    import ray

    file = cluster_file(config)
    values = {
        "RAY_ADDRESS": ray.get_runtime_context().gcs_address,
        "RAY_AUTH_MODE": os.environ.get("RAY_AUTH_MODE", ""),
        "RAY_AUTH_TOKEN": os.environ.get("RAY_AUTH_TOKEN", ""),
    }
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as opened:
        json.dump({name: value for name, value in values.items() if value}, opened)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def find_cluster(config: "RunConfig") -> None:
    """Point this process at the Ray of the running server, unless RAY_ADDRESS names one.

    Before Ray is imported. Raises InputError if no server of this run is there.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    try:
        os.environ.update(json.loads(cluster_file(config).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise InputError(
            f"no server of {config.folder.root} is running here; start it with "
            "`steper serve`, or set RAY_ADDRESS"
        ) from None


def update_server(config: "RunConfig") -> None:
    """Update the running server to these settings; questions are still answered meanwhile.

    Where it listens stays as it is. Raises InputError if none is running, StageError if the new one does
    not come up; the old one is still there then.
    """
    from ray import serve

    quieten()
    check_server(config)
    apps = serve.status().applications
    if APP not in apps:
        raise InputError("this Ray serves no student; start one with `steper serve`")
    started = time.monotonic()
    model = Path(served_model(config)).name
    doing = f"changing over to {model}"
    if (short := missing_resources(config, *apps)) is not None:
        if cluster_file(config).is_file():  # a Ray of one machine, which does not grow
            raise InputError(f"serve: the new one runs beside the old until then: {short}")
        doing += f"; waiting until the cluster has grown: {short}"
    with stage_progress("serve", doing):
        deploy(config)
    stage_done("serve", time.monotonic() - started, [f"{model} is served"])


def serve_until_interrupted(config: "RunConfig") -> None:
    """Serve the student until Ctrl-C."""
    with running_server(config) as url:
        print(f"serving {Path(served_model(config)).name} at {url}; Ctrl-C ends it", flush=True)
        print(f"  ask it on the page: {url}/", flush=True)
        print(
            f"  curl {url}/v1/answer -H 'content-type: application/json' "
            '-d \'{"question": "…"}\'',
            flush=True,
        )
        while True:
            time.sleep(3600)
