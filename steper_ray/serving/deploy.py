"""Deploys a student and its corpus on Ray Serve: LLM, retriever and ingress, each scaling by itself.

`steper serve` makes three Serve applications: LLM, retriever and ingress. The names of the first two are
digests of their model or corpus and settings. An update starts a changed LLM or retriever under its new
name beside the old one, switches the ingresses over, and deletes the old one when the old ingresses have
drained. So every step of a question is answered by the same student and corpus.
"""

import logging
import re
import time
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import StageError, find_steper_error
from steper_ray.models.folder import model_identity
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.ray_runtime.placement import engine_replica_options
from steper_ray.run.dependencies import pick
from steper_ray.run.identity import digest
from steper_ray.run.keys import ENGINE_KEYS
from steper_ray.serving.keys import environment_keys
from steper_ray.serving.server_spec import ServerSpec
from steper_ray.text import short_message

if TYPE_CHECKING:
    from ray.serve import Application


logger = logging.getLogger(__name__)


APP: Final = "steper"
"""Name of the ingress's application."""


LLM_APP: Final = "steper-llm-"
"""Prefix of the name of an LLM's application."""


CORPUS_APP: Final = "steper-corpus-"
"""Prefix of the name of a retriever's application."""


TRIAL_APP: Final = "steper-trial"
"""Name of the application in which an update first tries a new ingress."""


DRAIN_S: Final = 10.0
"""Seconds that a replica has to shut down, beyond the deadline of a request."""


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
    app: Application = deployment.bind(
        spec.model,
        spec.model_name,
        spec.engine,
        spec.reasoning.settings,
        spec.hub,
        spec.log,
        serve.tool_parser,
    )
    return app


def build_retriever(spec: ServerSpec) -> "Application":
    """The retriever's deployment."""
    from steper_ray.serving.deployments.ingress import RETRIEVER
    from steper_ray.serving.deployments.retriever import CorpusRetriever

    serve = spec.serve
    app: Application = CorpusRetriever.options(  # type: ignore[attr-defined]
        **replicas(serve.retriever_replicas, serve.max_retriever_replicas, spec.places),
        **HEALTH,
        name=RETRIEVER,
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=serve.request_timeout_s + DRAIN_S,
        ray_actor_options={"num_cpus": serve.retriever_cpus},
    ).bind(spec.corpus, spec.log)
    return app


def build_ingress(spec: ServerSpec, llm: Any, retriever: Any) -> "Application":
    """The deployments of the ingress and of the counter of requests by key.

    llm, retriever: their deployments, or the names of their applications
    """
    from ray.serve.config import BackpressureConfig

    from steper_ray.serving.deployments.ingress import AnswerServer, KeyRates

    serve = spec.serve
    at_once = spec.places
    keys = environment_keys(serve.keys_env) if serve.keys_env else {}
    rates = KeyRates.options(  # type: ignore[attr-defined]
        **HEALTH,
        **ONE_MORE,
        name="key-rates",
        max_ongoing_requests=1000,
        ray_actor_options={"num_cpus": 0},
    ).bind()
    ingress = AnswerServer.options(  # type: ignore[attr-defined]
        **replicas(serve.ingress_replicas, serve.max_ingress_replicas, at_once),
        **HEALTH,
        **ONE_MORE,
        name="ingress",
        # a question without a place must reach the ingress to be refused; the proxies refuse further ones
        max_ongoing_requests=at_once + MORE_THAN_PLACES,
        max_queued_requests=MORE_THAN_PLACES,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_timeout_s=serve.longest_seconds + DRAIN_S,
        ray_actor_options={"num_cpus": serve.ingress_cpus},
    )
    app: Application = ingress.bind(
        llm,
        retriever,
        rates,
        model=spec.model,
        name=spec.model_name,
        reasoning=spec.reasoning,
        config=serve,
        places=at_once,
        keys=keys,
        hub=spec.hub,
        log=spec.log,
    )
    return app


MORE_THAN_PLACES: Final = 256
"""Requests that an ingress holds beside the questions in progress."""


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
        serve.tool_parser,
    )
    context = asked.max_prompt_tokens + asked.max_step_tokens
    return LLM_APP + digest([*parts, *numbers, context])[:12]


def corpus_app(spec: ServerSpec) -> str:
    """Application name of the retriever; it changes with the corpus and with its deployment's settings."""
    serve = spec.serve
    corpus = (str(spec.corpus), spec.reasoning.corpus_version)
    numbers = (serve.retriever_replicas, serve.max_retriever_replicas, serve.retriever_cpus)
    parts = [*corpus, *numbers, spec.places, serve.request_timeout_s]
    return CORPUS_APP + digest(parts)[:12]


def deploy(spec: ServerSpec) -> None:
    """Start the applications, or update running ones to these settings without a pause.

    The new LLM, retriever and one trial ingress start beside the running ones. Raises StageError with the
    reason if one of the new ones fails to start; the running ones are then unchanged.
    """
    from ray import serve

    names, before = (llm_app(spec), corpus_app(spec)), set(serve.status().applications)
    serves_log = {"log_level": "WARNING"}

    def target(app: "Application", name: str, route: str | None = None) -> Any:
        return serve.RunTarget(app, name=name, route_prefix=route, logging_config=serves_log)

    # running applications are not deployed again: Serve would restart their replicas
    builders = zip(names, (build_llm, build_retriever), strict=True)
    new = [target(builder(spec), name) for name, builder in builders if name not in before]
    ingress = target(build_ingress(spec, *names), APP, "/")
    logger.info("new applications: %s", ", ".join(app.name for app in [*new, ingress]))
    if APP not in before:
        bring_up(spec.log, *new, ingress)
        return
    try:
        trial = build_ingress(spec.with_one_ingress(), *names)
        bring_up(spec.log, *new, target(trial, TRIAL_APP))
    except StageError:
        for name in set(names) - before:
            serve.delete(name)
        raise
    finally:
        serve.delete(TRIAL_APP)
    bring_up(spec.log, ingress)  # the trial ingress answers, so the real ones can be switched over
    wait_until_drained(spec.serve.longest_seconds + DRAIN_S)
    for name in before - set(names):
        if name.startswith((LLM_APP, CORPUS_APP)):
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


def wait_until_drained(seconds: float) -> None:
    """Wait until every old ingress replica has drained, at most `seconds`."""
    from ray import serve

    until = time.monotonic() + seconds
    while time.monotonic() < until:
        states = serve.status().applications[APP].deployments["ingress"].replica_states
        if all(state == "RUNNING" for state in states):
            return
        time.sleep(0.2)
