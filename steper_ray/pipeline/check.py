"""`steper check`: what would stop a run, said before anything is spent on it, one line a finding."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.errors import InputError
from steper_ray.ray_runtime.cluster_check import (
    Finding,
    check_shared,
    fact_findings,
    node_facts,
    shared_storage,
)

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


def check_cluster(config: "RunConfig") -> None:
    """Raises InputError where the nodes of a cluster do not share the run folder; cheap.

    Nothing is asked of a Ray of this process's own, which has one node.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return
    for folder in dict.fromkeys((config.folder.root, config.folder.data)):
        if (
            folder == config.folder.root or folder.is_dir()
        ):  # else the stage says that it is not there
            check_shared(folder)


@contextmanager
def checked_session(config: "RunConfig") -> Iterator[None]:
    """A connected Ray whose nodes share the run folder, as every stage and server needs it."""
    from steper_ray.ray_runtime.session import ray_session

    with ray_session():
        check_cluster(config)
        yield


def check_run(config: "RunConfig") -> None:
    """Print every finding; raises InputError if anything is wrong. Needs a running Ray."""
    wrong = count = 0
    for check in CHECKS:
        for finding in check(config):
            count += 1
            wrong += finding.wrong
            state = "wrong" if finding.wrong else "ok"
            print(f"{state:<6} {finding.subject:<9} {finding.text}", flush=True)
    if wrong:
        raise InputError(f"{wrong} of {count} findings are wrong; the lines above say what to do")


def storage_findings(config: "RunConfig") -> Iterator[Finding]:
    """Whether the nodes share the run folder, and that of its data."""
    for folder in dict.fromkeys((config.folder.root, config.folder.data)):
        yield shared_storage(folder)


def node_findings(config: "RunConfig") -> Iterator[Finding]:
    """Packages, GPUs, disks, model folders and tokens of every node."""
    folders = [m for m in run_models(config).values() if Path(m[0]).expanduser().is_dir()]
    token = config.hub.token_env
    variables = [token] if os.environ.get(token) else []
    yield from fact_findings(node_facts([model for model, _ in folders], variables))


def model_findings(config: "RunConfig") -> Iterator[Finding]:
    """Whether each model of the run is a model folder, or can be read from the Hub from here."""
    from steper_ray.models.folder import check_model

    for setting, (model, revision) in run_models(config).items():
        try:
            check_model(model, setting, revision)
            if not Path(model).expanduser().is_dir():
                _check_hub_model(config, model, revision)
        except InputError as error:
            text = str(error)
            yield Finding("model", text if setting in text else f"{setting}: {text}", wrong=True)
        else:
            yield Finding("model", f"{setting}: {model} can be read")


def run_models(config: "RunConfig") -> dict[str, tuple[str, str | None]]:
    """Setting → the model that it names, and the revision; without models behind endpoints."""
    from steper_ray.models.hub import split_revision

    build, models = config.build, {}
    if config.train.model:
        models["train.model"] = (config.train.model, config.train.revision)
    for name, teacher in zip(build.teachers, (build, *build.ensemble), strict=True):
        if teacher.endpoint is None and teacher.teacher:
            where = f"build.ensemble: {name}" if name else "build.teacher"
            models[where] = (teacher.teacher, teacher.revision)
    if config.serve.model:
        models["serve.model"] = (config.serve.model, None)
    for name, address in config.eval.models.items():
        if address != str(config.folder.student):
            models[f"eval.models.{name}"] = split_revision(address)
    return models


def _check_hub_model(config: "RunConfig", model: str, revision: str | None) -> None:
    """Raises InputError with the reason where a model on the Hub, or its copy here, cannot be read."""
    from steper_ray.models.loading import load_model_config

    load_model_config(model, config.hub, revision)


def disk_findings(config: "RunConfig") -> Iterator[Finding]:
    """Whether the disk of the run folder has room for the training."""
    from steper_ray.training.storage import check_storage, needed_storage

    needed = None
    model = Path(config.train.model).expanduser()
    try:
        if config.train.model and (model.is_dir() or not model.is_absolute()):
            needed = needed_storage(config.train, config.hub)
        check_storage(config.folder.root, needed)
    except InputError as error:
        yield Finding("disk", str(error), wrong=True)
        return
    size = f"{needed.total / 1e9:,.1f} GB" if needed else "a size that is not known"
    yield Finding("disk", f"{config.folder.root} has room for a training: {size}")


def port_findings(config: "RunConfig") -> Iterator[Finding]:
    """Whether a server could listen here; not asked where Serve runs on a cluster, or serves this run."""
    from steper_ray.serving.preflight import check_port

    if os.environ.get("RAY_ADDRESS") or config.folder.cluster_file.is_file():
        return
    host, port = config.serve.host, config.serve.port
    try:
        check_port(host, port)
    except InputError as error:
        yield Finding("port", str(error), wrong=True)
    else:
        yield Finding("port", f"serve.port: {host}:{port} is free")


CHECKS: Final[tuple[Callable[["RunConfig"], Iterator[Finding]], ...]] = (
    storage_findings,
    node_findings,
    model_findings,
    disk_findings,
    port_findings,
)
"""What `steper check` looks at, in the order of its lines."""
