"""Puts a student and its corpus behind Ray Serve.

    POST /v1/answer {"question": "..."}   the answer, its steps with their passages, timings
    GET  /healthz                         200 while the server is alive

The student is asked as it was trained: k, S and the prompt come from its folder. What the run file
overrides on purpose (`serve.passages_per_step`, `serve.max_steps`), or a corpus of another version,
is named in every answer under `overrides`.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field, NonNegativeFloat, PositiveInt

from steper_ray.errors import InputError, StageError
from steper_ray.models import carried_settings, check_model, reasoning_for
from steper_ray.pretrained import load_tokenizer
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval import Retriever
from steper_ray.section import Section
from steper_ray.session import quieten

if TYPE_CHECKING:
    from ray.serve import Application

    from steper_ray.config import RunConfig

APP: Final = "steper"


class ServeConfig(Section):
    """The server."""

    model: str = ""
    """Folder of the model to serve; empty serves the run's student."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8000, ge=1, le=65535)
    """Port to listen on."""
    engines: PositiveInt = 1
    """Replicas of the vLLM engine."""
    ingresses: PositiveInt = 1
    """Replicas of the ingress that runs the reasoning loop."""
    ingress_cpus: NonNegativeFloat = 0.1
    """CPU cores each ingress reserves in Ray."""
    max_question_chars: PositiveInt = 2000
    """Longest question accepted, in characters."""
    request_timeout_s: float = Field(default=300.0, gt=0)
    """Seconds after which a request is given up."""
    passages_per_step: PositiveInt | None = None
    """Overrides the k that the student was trained with."""
    max_steps: PositiveInt | None = None
    """Overrides the S that the student was trained with."""


def served_model(config: "RunConfig") -> str:
    """The model that the run file says to serve."""
    return config.serve.model or str(config.student_dir)


def serving_settings(
    config: "RunConfig", corpus_version: str
) -> tuple[ReasoningConfig, dict[str, Any]]:
    """How the student is asked, and every deviation from how it was trained.

    Returns the settings and {name: {"trained": …, "served": …}}.
    """
    model = served_model(config)
    carried = carried_settings(model)
    trained, trained_version = carried or (reasoning_for(config, model), corpus_version)
    served = trained
    overrides: dict[str, Any] = {}
    for name in ("passages_per_step", "max_steps"):
        value = getattr(config.serve, name)
        if value is not None and value != getattr(trained, name):
            served = served.model_copy(update={name: value})
            overrides[name] = {"trained": getattr(trained, name), "served": value}
    if trained_version != corpus_version:
        overrides["corpus_version"] = {"trained": trained_version, "served": corpus_version}
    return served, overrides


def build_app(config: "RunConfig") -> "Application":
    """The Serve application of a run; raises InputError for an unusable model or corpus."""
    from steper_ray.serving.deployments import AnswerServer, StudentEngine

    model = check_model(served_model(config), "serve.model")
    load_tokenizer(model, config.hub)  # what replicas die of, Serve does not say
    version = Retriever(config.corpus_dir).corpus_version
    reasoning, overrides = serving_settings(config, version)
    engine = StudentEngine.options(  # type: ignore[attr-defined]
        num_replicas=config.serve.engines,
        max_ongoing_requests=2 * config.engine.max_num_seqs,
        ray_actor_options={"num_cpus": config.engine.cpus, "num_gpus": config.engine.gpus},
    ).bind(model, config.engine, reasoning, config.hub, config.log_file("serve"))
    return AnswerServer.options(  # type: ignore[attr-defined,no-any-return]
        num_replicas=config.serve.ingresses,
        max_ongoing_requests=2 * config.engine.max_num_seqs,
        ray_actor_options={"num_cpus": config.serve.ingress_cpus},
    ).bind(engine, model, config.corpus_dir, reasoning, config.hub, overrides, config.serve)


def build(args: dict[str, str]) -> "Application":
    """Entry point for a Serve config file: `args: {config: run.yaml}`."""
    from steper_ray.config import load_config

    return build_app(load_config(args["config"]))


@contextmanager
def served(config: "RunConfig") -> Iterator[str]:
    """Serve the student while the block runs; yields its URL. Needs a running Ray.

    Raises InputError if the port is in use, StageError if the application does not come up.
    """
    from ray import serve
    from ray.serve.schema import LoggingConfig

    quieten()
    host, port = config.serve.host, config.serve.port
    check_port(host, port)
    app = build_app(config)
    serve.start(
        http_options={
            "host": host,
            "port": port,
            "request_timeout_s": config.serve.request_timeout_s,
        },
        logging_config=LoggingConfig(log_level="WARNING"),
    )
    try:
        try:
            serve.run(app, name=APP, route_prefix="/", logging_config={"log_level": "WARNING"})
        except RuntimeError as error:
            raise StageError(
                f"serve: the application did not come up ({' '.join(str(error).split())[:300]}); "
                f"see {config.log_file('serve')}"
            ) from error
        yield f"http://{host}:{port}"
    finally:
        # Ray says on the screen that it killed Serve's controller while that was shutting down.
        with config.log_file("serve").open("a") as log, redirect_stdout(log):
            serve.shutdown()


def check_port(host: str, port: int) -> None:
    """Raises InputError if nothing can listen there."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"serve.port: cannot listen on {host}:{port} ({error.strerror}); "
                "choose another with --set serve.port=…"
            ) from None


def serve_until_interrupted(config: "RunConfig") -> None:
    """Serve the student until Ctrl-C."""
    with served(config) as url:
        print(f"serving {Path(served_model(config)).name} at {url}; Ctrl-C ends it", flush=True)
        print(
            f"  curl {url}/v1/answer -H 'content-type: application/json' "
            '-d \'{"question": "…"}\'',
            flush=True,
        )
        while True:
            time.sleep(3600)
