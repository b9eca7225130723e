"""Entry point for Ray Serve's own configuration files."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.errors import InputError
from steper_ray.ray_runtime.logs import new_launch
from steper_ray.run.versions import version_folder, versions
from steper_ray.serving.deploy import build_fused, build_ingress, build_llm, build_retriever
from steper_ray.serving.preflight import check_server
from steper_ray.serving.server_spec import ServerSpec
from steper_ray.serving.session import server_spec

if TYPE_CHECKING:
    from ray.serve import Application

EVERYWHERE: Final = "0.0.0.0"
"""Address that the keys are checked for."""


ARGUMENTS: Final = ("config", "student", "corpus")
"""Arguments in a Serve config file."""


def build(args: dict[str, str]) -> "Application":
    """All deployments of a server as one application.

    args: in a Serve config file, `{config: run.yaml}`, and if need be `student` and `corpus`: the identity
        of one of the run's versions (`4f0c…` or `student-4f0c…`), or a folder. Serve builds an application
        again only when its config changes: naming another version is what rolls it out.

    The `http_options` of that file say where Serve listens, which may be anywhere: the server needs keys,
    or `serve.open`.
    """
    spec = spec_of(args)
    check_server(spec)
    if spec.serve.fused:
        return build_fused(spec)
    return build_ingress(spec, build_llm(spec), build_retriever(spec))


def spec_of(args: Mapping[str, str]) -> ServerSpec:
    """The server that the arguments of a Serve config file describe; see `build`."""
    from steper_ray.run.loading import load_config

    if unknown := sorted(args.keys() - set(ARGUMENTS)):
        raise InputError(f"args: no argument {unknown[0]!r}; there are {', '.join(ARGUMENTS)}")
    if not args.get("config"):
        raise InputError("args.config is not set; name the run file")
    config = load_config(args["config"], [f"serve.host={EVERYWHERE}"])
    if args.get("student"):
        student = _version(config.folder.student, "args.student", str(args["student"]))
        model = {"model": str(student)}
        config = config.model_copy(update={"serve": config.serve.model_copy(update=model)})
    corpus = None
    if args.get("corpus"):
        corpus = _version(config.folder.corpus, "args.corpus", str(args["corpus"]))
    # A new launch each time would change the spec, and with it restart all replicas.
    if not config.folder.latest_log("serve").is_dir():
        new_launch(config.folder.log("serve"), config.run.log_format)
    return server_spec(config, corpus)


def _version(link: Path, argument: str, name: str) -> Path:
    """The folder that an argument names: a version of `link` by its identity or its name, or any folder."""
    folders = [Path(name).expanduser()]
    if Path(name).name == name:
        folders = [version_folder(link, name), link.with_name(name)]
    for folder in folders:
        if folder.is_dir():
            return folder
    known = ", ".join(folder.name for folder in versions(link)) or "none"
    raise InputError(
        f"{argument}: {name}: no such folder, and no version in {link.parent}: {known}"
    )
