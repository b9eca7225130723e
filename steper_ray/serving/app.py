"""Entry point for Ray Serve's own configuration files."""

from typing import TYPE_CHECKING, Final

from steper_ray.ray_runtime.logs import new_launch
from steper_ray.serving.deploy import build_ingress, build_llm, build_retriever
from steper_ray.serving.preflight import check_server
from steper_ray.serving.session import server_spec

if TYPE_CHECKING:
    from ray.serve import Application

EVERYWHERE: Final = "0.0.0.0"
"""Address that the keys are checked for."""


def build(args: dict[str, str]) -> "Application":
    """All deployments of a server as one application; `args` in a Serve config file: `{config: run.yaml}`.

    The `http_options` of that file say where Serve listens, which may be anywhere: the server needs keys,
    or `serve.open`.
    """
    from steper_ray.run.loading import load_config

    config = load_config(args["config"], [f"serve.host={EVERYWHERE}"])
    # A new launch each time would change the spec, and with it restart all replicas.
    if not config.folder.latest_log("serve").is_dir():
        new_launch(config.folder.log("serve"), config.run.log_format)
    spec = server_spec(config)
    check_server(spec)
    return build_ingress(spec, build_llm(spec), build_retriever(spec))
