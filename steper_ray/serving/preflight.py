"""Checks before the server starts: tokenizer, keys, address, port, room on the cluster."""

import errno
import os
import socket
from contextlib import closing
from typing import Final

from steper_ray.errors import InputError
from steper_ray.models.loading import load_tokenizer
from steper_ray.ray_runtime.placement import engine_bundles
from steper_ray.ray_runtime.room import Bundle, check_room
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.serving.applications import ingress_app
from steper_ray.serving.deploy import corpus_app, llm_app
from steper_ray.serving.hosts import is_loopback
from steper_ray.serving.keys import KeyRing, environment_keys
from steper_ray.serving.server_spec import ServerSpec

ADVICE: Final = (
    "lower engine.cpus, engine.gpus (for the server alone: serve.engine) or serve.llm_replicas"
)


def check_server(spec: ServerSpec) -> None:
    """Check tokenizer, chat template and keys.

    Raises InputError for a server that cannot start, or that would let anyone in without `serve.open`.
    """
    serve = spec.serve
    reasoning = spec.reasoning.settings
    PromptEncoder(load_tokenizer(spec.model, spec.hub), reasoning.chat, reasoning.template_date)
    keys = environment_keys(serve.keys_env) if serve.keys_env else {}
    if not KeyRing(serve, keys).required and not serve.open and not is_loopback(serve.host):
        raise InputError(
            f"serve.host: {serve.host} can be reached from elsewhere and no API keys are set; give "
            "serve.keys_file or serve.keys_env, or say serve.open: true"
        )


def wait_for_room(spec: ServerSpec) -> None:
    """Check that Ray has room for the server; prints what is missing if a cluster may still grow.

    Raises InputError if the cluster can never have it, as a Ray that was started by this command.
    """
    check_room("serve", needed_bundles(spec), ADVICE)
    if (short := missing_resources(spec)) is None:
        return
    if not os.environ.get("RAY_ADDRESS"):
        raise InputError(f"serve: {short}")
    print(f"serve: waiting until the cluster has room: {short}", flush=True)


def missing_resources(spec: ServerSpec, *apps: str) -> str | None:
    """Resources that Ray lacks for LLMs, retrievers and one ingress, in words; None if there is room.

    apps: the applications that run already, which need no room
    """
    import ray

    free = ray.available_resources()
    for kind in ("CPU", "GPU"):
        amount = sum(bundle.resources.get(kind, 0) for bundle in needed_bundles(spec, *apps))
        if amount > free.get(kind, 0) + 1e-6:
            return f"{amount:g} {kind} are needed, {free.get(kind, 0):g} are free; {ADVICE}"
    return None


def needed_bundles(spec: ServerSpec, *apps: str) -> list[Bundle]:
    """What LLMs, retrievers and one ingress take; `apps` run already.

    Fused replicas are replaced one at a time, so that an update needs room for one.
    """
    serve = spec.serve
    if serve.fused:
        return engine_bundles(spec.engine) * (
            1 if ingress_app(spec.run) in apps else serve.llm_replicas
        )
    needed = [Bundle({"CPU": serve.ingress_cpus})]
    if llm_app(spec) not in apps:
        needed += engine_bundles(spec.engine) * serve.llm_replicas
    if corpus_app(spec) not in apps:
        needed += [Bundle({"CPU": serve.retriever_cpus})] * serve.retriever_replicas
    return needed


def check_port(host: str, port: int) -> None:
    """Check that a server can listen there; raises InputError that names the setting at fault."""
    with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            where = f"cannot listen on {host}:{port} ({error.strerror})"
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise InputError(
                    f"serve.port: {where}; choose another with --set serve.port=…"
                ) from None
            raise InputError(
                f"serve.host: {where}; give an address of this machine, or 0.0.0.0 for all of them"
            ) from None
