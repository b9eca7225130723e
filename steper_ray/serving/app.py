"""Entry point for Ray Serve's own configuration files."""

from typing import TYPE_CHECKING, Final

from steper_ray.serving.deploy import build_ingress, build_llm, build_retriever
from steper_ray.serving.preflight import check_server

if TYPE_CHECKING:
    from ray.serve import Application


def build(args: dict[str, str]) -> "Application":
    """Entry point for a Serve config file: `args: {config: run.yaml}`; everything in one application.

    Serve's own `http_options` say where it listens, which may be anywhere: it needs keys, or `serve.open`.
    """
    from steper_ray.run.loading import load_config

    config = load_config(args["config"], [f"serve.host={EVERYWHERE}"])
    check_server(config)
    return build_ingress(config, build_llm(config), build_retriever(config))


EVERYWHERE: Final = "0.0.0.0"
