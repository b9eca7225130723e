"""A run's applications on a Ray Serve that others may use too: names, what is taken, deleting, watching.

Serve has one instance a cluster. Its applications are named by the run, so that two servers neither replace
nor end each other's; it is shut down only by the command that started it, and when nothing else runs in it.
"""

import logging
import re
import time
from collections.abc import Mapping, Set
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steper_ray.errors import InputError, StageError
from steper_ray.run.identity import digest
from steper_ray.serving.settings import ServeConfig

logger = logging.getLogger(__name__)


INGRESS: Final = "ingress"
"""Name of the deployment that takes HTTP requests, in either layout."""


LONGEST_NAME: Final = 24
"""Largest number of characters of a run folder's name in the names of its applications."""


IDLE_S: Final = 10.0
"""Seconds to wait for the end of what has no questions in progress."""


WATCH_S: Final = 5.0
"""Seconds between two looks at the application of a running server."""


SILENT_S: Final = 120.0
"""Seconds after which a Serve that does not answer counts as gone; its controller may be restarting."""


def run_name(root: Path) -> str:
    """Name of a run in the names of its applications: that of its folder, and a digest of the path."""
    folder = root.resolve()
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", folder.name)[:LONGEST_NAME].strip("-")
    return f"{name or 'run'}-{digest(str(folder))[:8]}"


def ingress_app(run: str) -> str:
    """Name of the application of a run's ingresses."""
    return f"steper-{run}"


def trial_app(run: str) -> str:
    """Name of the application in which an update first tries a new ingress."""
    return f"{ingress_app(run)}-trial"


def llm_prefix(run: str) -> str:
    """How the names of a run's LLMs begin."""
    return f"{ingress_app(run)}-llm-"


def corpus_prefix(run: str) -> str:
    """How the names of a run's retrievers begin."""
    return f"{ingress_app(run)}-corpus-"


def is_own(app: str, run: str) -> bool:
    """Whether an application is one of the run's."""
    return app in (ingress_app(run), trial_app(run)) or app.startswith(
        (llm_prefix(run), corpus_prefix(run))
    )


@dataclass(frozen=True, slots=True)
class RunningServe:
    """A Serve that runs on the cluster already."""

    host: str
    port: int
    routes: Mapping[str, str | None]
    """Application → its route prefix."""


def running_serve() -> RunningServe | None:
    """The Serve of this Ray, None if none runs."""
    from ray.serve.context import _get_global_client

    client: Any = _get_global_client(raise_if_no_controller_running=False)
    if client is None:
        return None
    options, apps = client.http_config, client.get_serve_details()["applications"]
    routes = {name: app["route_prefix"] for name, app in apps.items()}
    return RunningServe(str(options.host), int(options.port), routes)


def check_taken(config: ServeConfig, run: str, running: RunningServe) -> None:
    """Raises InputError where a new server would replace another, or would not listen where it is told."""
    if ingress_app(run) in running.routes:
        raise InputError(
            "serve: this run is served already; change its server with `steper serve --update`, or stop "
            "it first"
        )
    for key, asked, real in (
        ("host", config.host, running.host),
        ("port", config.port, running.port),
    ):
        if asked != real:
            raise InputError(
                f"serve.{key}: Serve runs on this cluster already and listens on {running.host} port "
                f"{running.port}; set serve.host={running.host} and serve.port={running.port}"
            )
    for app, route in running.routes.items():
        if route == config.route_prefix:
            raise InputError(
                f"serve.route_prefix: {route} is taken by the application {app}; choose another with "
                "--set serve.route_prefix=/…"
            )


def end_applications(run: str, *, started: bool, seconds: float) -> None:
    """Delete a run's applications; shut Serve down too if this command `started` it and nothing else runs.

    What takes requests goes first, and ends when the questions in progress are answered. Proxies refuse new
    ones meanwhile. A server that is still starting has none, and its replicas would hear of their end only
    when their models are loaded.

    seconds: to wait for the questions at most
    """
    from ray import serve

    status = serve.status().applications
    apps = set(status)
    own = {app for app in apps if is_own(app, run)}
    front = own & {ingress_app(run), trial_app(run)}
    taking: list[Any] = [status[app].deployments.get(INGRESS) for app in front]
    if any(one is not None and one.replica_states.get("RUNNING") for one in taking):
        _delete(front, seconds)
    if started and own == apps:
        # Ray prints that it killed Serve's controller, although the controller was shutting down anyway
        with redirect_stdout(None):
            serve.shutdown()
        return
    _delete(own & set(serve.status().applications), min(seconds, IDLE_S))


def _delete(apps: Set[str], seconds: float) -> None:
    """Delete applications and wait until their replicas have ended, so many seconds at most."""
    from ray import serve

    logger.info("deleting %s", ", ".join(sorted(apps)) or "no application")
    for app in sorted(apps):
        serve.delete(app, _blocking=False)
    until = time.monotonic() + seconds
    while apps & set(serve.status().applications) and time.monotonic() < until:
        time.sleep(0.2)


def wait_while_served(run: str, *, silent_s: float = SILENT_S) -> None:
    """Wait until the run's application is gone; raises StageError then, and where Serve does not answer."""
    from ray import serve
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    app, answered = ingress_app(run), time.monotonic()
    while True:
        try:
            applications = serve.status().applications
        except (RayError, RayServeException, TimeoutError):
            if time.monotonic() - answered > silent_s:
                raise StageError(
                    "serve: Ray Serve does not answer any more; start the server again"
                ) from None
        else:
            answered = time.monotonic()
            if app not in applications or applications[app].status == "DELETING":
                raise StageError(
                    f"serve: the application {app} is gone: somebody deleted it or shut Serve down; "
                    "start the server again"
                )
        time.sleep(WATCH_S)
