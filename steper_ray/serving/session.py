"""A running server from start to Ctrl-C, and its update. Unpacks the run file into a `ServerSpec`."""

import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.chains.teachers import model_reasoning
from steper_ray.errors import InputError
from steper_ray.models.folder import check_model, resolved_model
from steper_ray.models.student_settings import carried_abilities, carried_settings, settings_file
from steper_ray.ray_runtime.logs import LaunchLog, logging_to, new_launch, quieten
from steper_ray.ray_runtime.progress import stage_done, stage_progress
from steper_ray.ray_runtime.waiting import telling_of_waits
from steper_ray.retrieval import corpus_version
from steper_ray.run.versions import name_of
from steper_ray.selection.abilities import ability_scheme, recorded_scheme
from steper_ray.serving.applications import (
    check_taken,
    end_applications,
    ingress_app,
    run_name,
    running_serve,
    wait_while_served,
)
from steper_ray.serving.deploy import DRAIN_S, deploy
from steper_ray.serving.overrides import serving_reasoning
from steper_ray.serving.preflight import (
    check_port,
    check_server,
    missing_resources,
    wait_for_room,
)
from steper_ray.serving.server_spec import ServerSpec

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


logger = logging.getLogger(__name__)


CLUSTER_VARIABLES: Final = ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
"""Environment variables by which an update reaches the Ray of the server, and no others."""


def served_model(config: "RunConfig") -> str:
    """The model to serve: `serve.model`, else the run's student."""
    return config.serve.model or str(config.folder.student)


def server_spec(config: "RunConfig", corpus: Path | None = None) -> ServerSpec:
    """Settings and inputs of a server, whose log is that of the newest launch.

    corpus: the folder of an indexed corpus; None takes the run's newest
    Raises InputError without a model or a corpus, and for reasoning settings that cannot be used.
    """
    given = check_model(served_model(config), "serve.model")
    model, corpus = resolved_model(given), (corpus or config.folder.corpus).resolve()
    version = corpus_version(corpus)
    trained, trained_version = carried_settings(model) or (
        model_reasoning(given, build=config.build, reasoning=config.reasoning),
        version,
    )
    record = carried_abilities(model)
    scheme = (
        recorded_scheme(record, settings_file(model))
        if record
        else ability_scheme(config.select.abilities)
    )
    return ServerSpec(
        config.serve,
        config.serve.engine or config.engine,
        config.hub,
        model,
        name_of(Path(given)),
        serving_reasoning(config.serve, trained, trained_version, version, scheme),
        corpus,
        LaunchLog(config.folder.latest_log("serve").resolve(), config.run.log_format),
        run_name(config.folder.root),
    )


@contextmanager
def running_server(config: "RunConfig") -> Iterator[str]:
    """Serve the student while the block runs; yields the URL of the server. Needs a running Ray.

    Raises InputError if the port, or the run's name or route on a Serve that runs already, is in use,
    StageError if the applications fail to start.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    quieten()
    spec = server_spec(config)
    check_server(spec)
    host, port = spec.serve.host, spec.serve.port
    running = running_serve()
    if running is None:
        check_port(host, port)
    else:
        check_taken(spec.serve, spec.run, running)
    spec = replace(spec, log=new_launch(config.folder.log("serve"), config.run.log_format))
    if running is None:
        serve.start(
            http_options={
                "host": host,
                "port": port,
                # later than the ingress's own deadline: ends the requests of an ingress that hangs
                "request_timeout_s": spec.serve.longest_seconds + DRAIN_S,
            },
            logging_config=LoggingConfig(log_level="WARNING"),
        )
    with logging_to(spec.log, "driver"):
        try:
            wait_for_room(spec)
            with telling_of_waits("serve"):
                deploy(spec)
            with reachable(config.folder.cluster_file):
                url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
                url += spec.serve.route_prefix.rstrip("/")
                logger.info("serving %s at %s, %s", spec.model, url, spec.serve.layout_name)
                yield url
        finally:
            logger.info("the server ends")
            seconds = spec.serve.longest_seconds + DRAIN_S
            print("serve: ending when the questions in progress are answered", flush=True)
            end_applications(spec.run, started=running is None, seconds=seconds)


@contextmanager
def reachable(file: Path) -> Iterator[None]:
    """Write how an update reaches this Ray to a file while the block runs; private, as it holds a token."""
    import ray

    values = {name: os.environ.get(name, "") for name in CLUSTER_VARIABLES}
    values["RAY_ADDRESS"] = ray.get_runtime_context().gcs_address
    file.unlink(missing_ok=True)
    with os.fdopen(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as opened:
        json.dump({name: value for name, value in values.items() if value}, opened)
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def find_cluster(config: "RunConfig") -> None:
    """Point this process at the Ray of the running server, unless RAY_ADDRESS names one.

    To be called before Ray is imported. Raises InputError if no server of this run is running, or its file
    is none.
    """
    if os.environ.get("RAY_ADDRESS"):
        return
    try:
        values = json.loads(config.folder.cluster_file.read_text(encoding="utf-8"))
        known = {name: value for name, value in values.items() if name in CLUSTER_VARIABLES}
        os.environ.update(known)
    except (AttributeError, TypeError, ValueError):
        raise InputError(
            f"{config.folder.cluster_file} does not say how to reach the server; start the server again"
        ) from None
    except FileNotFoundError:
        raise InputError(
            f"no server of {config.folder.root} is running here; start it with "
            "`steper serve`, or set RAY_ADDRESS"
        ) from None


def update_server(config: "RunConfig") -> None:
    """Update the running server to these settings without a pause; the address and port stay as they are.

    Raises InputError if no server is running, StageError if the new applications fail to start, in which
    case the old ones keep running.
    """
    from ray import serve

    quieten()
    spec = server_spec(config)
    check_server(spec)
    apps = serve.status().applications
    if ingress_app(spec.run) not in apps:
        raise InputError("this Ray serves no student of this run; start one with `steper serve`")
    started = time.monotonic()
    doing = f"changing over to {spec.model_name}"
    if (short := missing_resources(spec, *apps)) is not None:
        if config.folder.cluster_file.is_file():  # a Ray of one machine, which does not grow
            raise InputError(f"serve: the new one runs beside the old until then: {short}")
        doing += f"; waiting until the cluster has grown: {short}"
    spec = replace(spec, log=new_launch(config.folder.log("serve"), config.run.log_format))
    with (
        stage_progress("serve", doing),
        logging_to(spec.log, "driver"),
        telling_of_waits("serve"),
    ):
        logger.info("update to %s", spec.model)
        deploy(spec)
    stage_done("serve", time.monotonic() - started, [f"{spec.model_name} is served"])


def serve_until_interrupted(config: "RunConfig") -> None:
    """Serve the student until Ctrl-C or SIGTERM; raises StageError if its application is gone before.

    The first signal lets the questions in progress be answered, a second one ends the server at once.
    """
    with running_server(config) as url:
        serve = config.serve
        asked_for = (
            f", for {serve.apart_keys[0]}" if serve.layout is None and not serve.fused else ""
        )
        layout = f"serve.layout: {serve.layout_name}{asked_for}"
        print(
            f"serving {Path(served_model(config)).name} at {url} ({layout}); Ctrl-C ends it",
            flush=True,
        )
        print(f"  ask it on the page: {url}/", flush=True)
        print(
            f"  curl {url}/v1/answer -H 'content-type: application/json' "
            '-d \'{"question": "…"}\'',
            flush=True,
        )
        wait_while_served(run_name(config.folder.root))
