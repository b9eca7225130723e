"""Deploys a student and its corpus on Ray Serve, in one of two layouts (`serve.layout`).

*fused*: one application, whose replicas hold LLM, corpus and reasoning loop each. An update first tries one
replica of the new kind, then replaces the old ones one at a time.

*apart*: three applications, LLM, retriever and ingress, each scaling by itself. Their names carry the run;
those of the first two have a digest of their model or corpus and settings too. An update starts a changed
LLM or retriever under its new name beside the old one, switches the ingresses over, and deletes the old one
when the old ingresses have drained.

In both every step of a question is answered by the same student and corpus.
"""

import logging
import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import StageError, find_steper_error
from steper_ray.models.folder import model_identity
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.ray_runtime.placement import engine_replica_options
from steper_ray.run.dependencies import pick
from steper_ray.run.identity import digest
from steper_ray.run.keys import ENGINE_KEYS
from steper_ray.serving.applications import (
    INGRESS,
    corpus_prefix,
    ingress_app,
    llm_prefix,
    trial_app,
)
from steper_ray.serving.keys import Keys, environment_keys
from steper_ray.serving.server_spec import ServerSpec
from steper_ray.text import short_message

if TYPE_CHECKING:
    from ray.serve import Application


logger = logging.getLogger(__name__)


DRAIN_S: Final = 10.0
"""Seconds that a replica has to shut down, beyond the deadline of a request."""


DRAINED_WITHIN_S: Final = 0.5
"""Seconds between two looks of a replica that is to end at whether its questions are answered."""


HEALTH: Final = {"health_check_period_s": 2, "health_check_timeout_s": 30}
"""How soon Serve notices a dead replica."""


ONE_MORE: Final = {"max_surge_percent": 1}
"""Rolling update that starts each new replica before it stops an old one, one at a time (up to a hundred
replicas: the surge is a percentage of them, at least one)."""


def build_llm(spec: ServerSpec) -> "Application":
    """The LLM's deployment."""
    from steper_ray.serving.deployments.ingress import LLM
    from steper_ray.serving.deployments.llm import StudentLLM

    serve, at_once = spec.serve, spec.engine.max_num_seqs
    options: dict[str, Any] = replicas(serve.llm_replicas, serve.max_llm_replicas, at_once)
    if serve.routes_by_prefix:
        options["request_router_config"] = prefix_router(at_once)
    deployment = StudentLLM.options(  # type: ignore[attr-defined]
        **options,
        **engine_replica_options(spec.engine),
        **HEALTH,
        name=LLM,
        max_ongoing_requests=4 * at_once,
        max_constructor_retry_count=2,  # a constructor that failed twice will fail again
        graceful_shutdown_timeout_s=serve.request_timeout_s + DRAIN_S,
    )
    app: Application = deployment.bind(spec.llm, spec.log)
    return app


def build_retriever(spec: ServerSpec) -> "Application":
    """The retriever's deployment."""
    from steper_ray.serving.deployments.ingress import RETRIEVER
    from steper_ray.serving.deployments.retriever import CorpusRetriever

    serve = spec.serve
    app: Application = CorpusRetriever.options(  # type: ignore[attr-defined]
        **replicas(serve.retriever_replicas, serve.max_retriever_replicas, CALLS_AT_A_TIME),
        **HEALTH,
        name=RETRIEVER,
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=serve.request_timeout_s + DRAIN_S,
        ray_actor_options={"num_cpus": serve.retriever_cpus},
    ).bind(spec.corpus, spec.log, serve.stall_s)
    return app


def build_ingress(spec: ServerSpec, llm: Any, retriever: Any) -> "Application":
    """The deployments of the ingress and of the counter of requests by key.

    llm, retriever: their deployments, or the names of their applications
    """
    from steper_ray.serving.deployments.ingress import AnswerServer

    serve = spec.serve
    ingress = AnswerServer.options(  # type: ignore[attr-defined]
        **replicas(serve.ingress_replicas, serve.max_ingress_replicas, half_of(spec.places)),
        **taking_requests(spec),
        ray_actor_options={"num_cpus": serve.ingress_cpus},
    )
    app: Application = ingress.bind(llm, retriever, build_rates(), spec, served_keys(spec))
    return app


def build_fused(spec: ServerSpec) -> "Application":
    """The deployments of the fused layout: replicas with everything, and the counter of requests by key."""
    from ray.serve.config import RequestRouterConfig

    from steper_ray.serving.deployments.fused import FusedServer

    serve = spec.serve
    busy = half_of(spec.places)
    options: dict[str, Any] = replicas(serve.llm_replicas, serve.max_llm_replicas, busy)
    if serve.routes_by_prefix:
        router: Any = RequestRouterConfig
        options["request_router_config"] = router(request_router_class=SESSION_ROUTER)
    server = FusedServer.options(  # type: ignore[attr-defined]
        **options,
        **taking_requests(spec),
        **engine_replica_options(spec.engine),
        max_constructor_retry_count=2,
    )
    app: Application = server.bind(build_rates(), spec, served_keys(spec))
    return app


def build_rates() -> "Application":
    """The counter of requests by key."""
    from steper_ray.serving.deployments.ingress import KeyRates

    app: Application = KeyRates.options(  # type: ignore[attr-defined]
        **HEALTH,
        **ONE_MORE,
        name="key-rates",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    ).bind()
    return app


def served_keys(spec: ServerSpec) -> Keys:
    """Keys of the environment."""
    return environment_keys(spec.serve.keys_env) if spec.serve.keys_env else {}


def taking_requests(spec: ServerSpec) -> dict[str, Any]:
    """Serve's options for the replicas that take HTTP requests."""
    from ray.serve.config import BackpressureConfig

    return {
        **HEALTH,
        **ONE_MORE,
        "name": INGRESS,
        # a question without a place must reach the replica to be refused; the proxies refuse further ones
        "max_ongoing_requests": spec.places + MORE_THAN_PLACES,
        "max_queued_requests": MORE_THAN_PLACES,
        "backpressure_config": BackpressureConfig(status_code=503, retry_after_s=1),
        "graceful_shutdown_timeout_s": spec.serve.longest_seconds + DRAIN_S,
        "graceful_shutdown_wait_loop_s": DRAINED_WITHIN_S,
    }


SESSION_ROUTER: Final = "steper_ray.serving.deployments.session_router.SessionRouter"


MORE_THAN_PLACES: Final = 1024
"""Requests that an ingress holds beside the questions in progress: those that are being refused, several
times as many as a proxy forwards of them, and the health checks, which must not wait for those."""


CALLS_AT_A_TIME: Final = 1
"""Calls that a retriever should have: an ingress makes at most two, and what waits shares the next."""


def half_of(places: int) -> int:
    """Questions at a time that a replica should have: it never has more than its places, so that it must be
    fewer for more replicas to come before questions are refused.
    """
    return max(1, places // 2)


def replicas(least: int, most: int | None, target: int) -> dict[str, Any]:
    """Serve's options for a fixed number of replicas, or for autoscaling between two bounds.

    target: requests at a time that a replica should have
    """
    if most is None or most <= least:
        return {"num_replicas": least}
    autoscaling = {
        "min_replicas": least,
        "max_replicas": most,
        "target_ongoing_requests": target,
    }
    return {"num_replicas": None, "autoscaling_config": autoscaling}


def prefix_router(max_num_seqs: int) -> Any:
    """Router that prefers the LLM replica with the longest cached prefix, unless it is much busier."""
    from ray.serve.config import RequestRouterConfig

    router: Any = RequestRouterConfig
    return router(
        request_router_class="ray.serve.llm.request_router.PrefixCacheAffinityRouter",
        request_router_kwargs={
            "imbalanced_threshold": max(1, max_num_seqs // 4),
            "do_eviction": True,
        },
    )


def llm_app(spec: ServerSpec) -> str:
    """Application name of the LLM; it changes with the model and with every setting of its deployment."""
    serve, asked = spec.serve, spec.reasoning.settings
    parts: list[Any] = [
        spec.model,
        model_identity(spec.model, hub=spec.hub),
        pick(spec.engine, ENGINE_KEYS),
    ]
    parts += [pick(spec.hub, ("trust_remote_code", "offline", "token_env")), asked.chat]
    numbers = (
        serve.llm_replicas,
        serve.max_llm_replicas,
        serve.routes_by_prefix,
        serve.request_timeout_s,
        serve.max_output_tokens,
        serve.tool_parser,
        serve.stall_s,
    )
    context = asked.max_prompt_tokens + asked.max_step_tokens
    return llm_prefix(spec.run) + digest([*parts, *numbers, context])[:12]


def corpus_app(spec: ServerSpec) -> str:
    """Application name of the retriever; it changes with the corpus and with its deployment's settings."""
    serve = spec.serve
    corpus = (str(spec.corpus), spec.reasoning.corpus_version)
    numbers = (serve.retriever_replicas, serve.max_retriever_replicas, serve.retriever_cpus)
    parts = [*corpus, *numbers, serve.request_timeout_s, serve.stall_s]
    return corpus_prefix(spec.run) + digest(parts)[:12]


def behind_apps(spec: ServerSpec) -> dict[str, Callable[[ServerSpec], "Application"]]:
    """The applications behind the one that takes requests, by name; what builds each."""
    if spec.serve.fused:
        return {}
    return {llm_app(spec): build_llm, corpus_app(spec): build_retriever}


def build_front(spec: ServerSpec) -> "Application":
    """The application that takes requests."""
    return build_fused(spec) if spec.serve.fused else build_ingress(spec, *behind_apps(spec))


def deploy(spec: ServerSpec) -> None:
    """Start the applications, or update running ones to these settings without a pause.

    What is new, and one trial of what takes the requests, start beside the running ones. Raises StageError
    with the reason if one of the new ones fails to start; the running ones are then unchanged.
    """
    from ray import serve

    names, before = behind_apps(spec), set(serve.status().applications)
    serves_log = {"log_level": "WARNING"}

    def target(app: "Application", name: str, route: str | None = None) -> Any:
        return serve.RunTarget(app, name=name, route_prefix=route, logging_config=serves_log)

    # running applications are not deployed again: Serve would restart their replicas
    new = [target(builder(spec), name) for name, builder in names.items() if name not in before]
    app = ingress_app(spec.run)
    ingress = target(build_front(spec), app, spec.serve.route_prefix)
    logger.info("new applications: %s", ", ".join(app.name for app in [*new, ingress]))
    if app not in before:
        bring_up(spec.log, *new, ingress)
        return
    try:
        trial = build_front(spec.with_one_ingress())
        bring_up(spec.log, *new, target(trial, trial_app(spec.run)))
    except StageError:
        for name in names.keys() - before:
            serve.delete(name)
        raise
    finally:
        serve.delete(trial_app(spec.run))
    bring_up(spec.log, ingress)  # the trial answers, so the real ones can be switched over
    wait_until_drained(app, spec.serve.longest_seconds + DRAIN_S)
    for name in before - names.keys():
        if name.startswith((llm_prefix(spec.run), corpus_prefix(spec.run))):
            logger.info("%s is drained and ends", name)
            serve.delete(name)


def bring_up(log: LaunchLog, *apps: Any) -> None:
    """Run applications; raises StageError with the reason if one fails to start.

    log: named in the error
    """
    from ray import serve

    try:
        serve.run_many(apps)
    except RuntimeError as error:
        reason = why_not_up() or short_message(error, longest=300)
        raise StageError(f"serve: {reason}; see {log.folder}") from error


def why_not_up() -> str | None:
    """Reason why replicas fail to start, from Serve's status; None if it gives none."""
    from ray import serve

    apps = serve.status().applications.values()
    said = [deployment.message for app in apps for deployment in app.deployments.values()]
    for message in filter(None, said):
        known = find_steper_error(RuntimeError(message))
        raised = re.findall(r"^[\w.]+(?:Error|Exception): .+$", message, re.MULTILINE)
        return str(known or (raised or message.strip().splitlines())[-1])[:500]
    return None


def wait_until_drained(app: str, seconds: float) -> None:
    """Wait until every old ingress replica of an application has drained, at most `seconds`."""
    from ray import serve

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = serve.status().applications[app].deployments[INGRESS].replica_states
        if all(state == "RUNNING" for state in states):
            return
        time.sleep(0.2)
