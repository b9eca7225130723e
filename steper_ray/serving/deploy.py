"""Deploys a student and its corpus on Ray Serve: LLM, retriever and ingress, each scaling by itself.

`steper serve` makes three Serve applications: the LLM and the retriever in one each, which is named after
what it is made of, and the ingress. An update starts what is new beside the old, lets the ingresses change
over, and ends the old when the last question that began with it is answered: a question has one student and
one corpus from its first step to its last. `build`, for Serve's own config files, makes one application.

The student is asked as it was trained: k, S and the prompt come from its folder. What the run file or a
request overrides on purpose, or a corpus of another version, is named in every answer under `overrides`.
"""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import StageError, find_steper_error
from steper_ray.models.folder import model_identity
from steper_ray.run.dependencies import ENGINE_KEYS, pick
from steper_ray.run.identity import digest
from steper_ray.serving.keys import environment_keys
from steper_ray.serving.overrides import places, served_model, serving_reasoning

if TYPE_CHECKING:
    from ray.serve import Application

    from steper_ray.run.config import RunConfig


APP: Final = "steper"
"""The application of the ingress."""


LLM_APP: Final = "steper-llm-"
"""Begins the name of the application of an LLM."""


CORPUS_APP: Final = "steper-corpus-"
"""Begins the name of the application of a retriever."""


TRIAL_APP: Final = "steper-trial"
"""The application in which an update first tries a new ingress."""


DRAIN_S: Final = 10.0
"""Seconds that a replica has to end, past the longest request."""


HEALTH: Final = {"health_check_period_s": 2, "health_check_timeout_s": 30}
"""How soon Serve sees that a replica is gone."""


ONE_MORE: Final = {"max_surge_percent": 1}
"""An update starts each new replica before it ends an old one; of up to a hundred, one more at a time."""


def build_llm(config: "RunConfig") -> "Application":
    """The LLM's deployment."""
    from steper_ray.ray_runtime.placement import bundles
    from steper_ray.serving.deployments.ingress import LLM
    from steper_ray.serving.deployments.llm import StudentLLM

    model, serve = served_model(config), config.serve
    options: dict[str, Any] = replicas(
        serve.llm_replicas, serve.max_llm_replicas, config.engine.max_num_seqs
    )
    if serve.routes_by_prefix:
        options["request_router_config"] = prefix_router(config)
    deployment = StudentLLM.options(  # type: ignore[attr-defined]
        **options,
        **HEALTH,
        name=LLM,
        max_ongoing_requests=4 * config.engine.max_num_seqs,
        max_constructor_retry_count=2,  # a constructor that failed twice will fail again
        graceful_shutdown_timeout_s=serve.request_timeout_s + DRAIN_S,
        placement_group_bundles=bundles(config.engine),
        ray_actor_options={"num_cpus": config.engine.cpus},
    )
    asked = serving_reasoning(config).served
    log = config.folder.log("serve")
    app: Application = deployment.bind(
        model, Path(model).name, config.engine, asked, config.hub, log
    )
    return app


def build_retriever(config: "RunConfig") -> "Application":
    """The retriever's deployment."""
    from steper_ray.serving.deployments.ingress import RETRIEVER
    from steper_ray.serving.deployments.retriever import CorpusRetriever

    serve = config.serve
    app: Application = CorpusRetriever.options(  # type: ignore[attr-defined]
        **replicas(serve.retriever_replicas, serve.max_retriever_replicas, places(config)),
        **HEALTH,
        name=RETRIEVER,
        max_ongoing_requests=1000,
        graceful_shutdown_timeout_s=serve.request_timeout_s + DRAIN_S,
        ray_actor_options={"num_cpus": serve.retriever_cpus},
    ).bind(config.folder.corpus.resolve(), config.folder.log("serve"))
    return app


def build_ingress(config: "RunConfig", llm: Any, retriever: Any) -> "Application":
    """The deployments of the ingress and of the counter of requests by key.

    llm, retriever: their deployments, or the names of the applications that they are in
    """
    from ray.serve.config import BackpressureConfig

    from steper_ray.serving.deployments.ingress import AnswerServer, KeyRates

    serve = config.serve
    at_once = places(config)
    keys = environment_keys(serve.keys_env) if serve.keys_env else {}
    served = serving_reasoning(config)
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
        # what finds no place must still be told so; past that Serve's proxies tell it
        max_ongoing_requests=at_once + MORE_THAN_PLACES,
        max_queued_requests=MORE_THAN_PLACES,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        graceful_shutdown_timeout_s=serve.request_timeout_s + DRAIN_S,
        ray_actor_options={"num_cpus": serve.ingress_cpus},
    )
    app: Application = ingress.bind(
        llm,
        retriever,
        rates,
        model=served_model(config),
        served=served,
        config=serve,
        places=at_once,
        keys=keys,
        hub=config.hub,
        log=config.folder.log("serve"),
    )
    return app


MORE_THAN_PLACES: Final = 256
"""Requests that an ingress holds beside the questions it works on."""


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


def prefix_router(config: "RunConfig") -> Any:
    """Router that prefers the LLM replica with the longest cached prefix, unless it is much busier."""
    from ray.serve.config import RequestRouterConfig

    router: Any = RequestRouterConfig
    return router(
        request_router_class="ray.serve.llm.request_router.PrefixCacheAffinityRouter",
        request_router_kwargs={
            "imbalanced_threshold": max(1, config.engine.max_num_seqs // 4),
            "do_eviction": True,
        },
    )


def llm_app(config: "RunConfig") -> str:
    """Application name of the LLM; it changes with the model and with every setting of its deployment."""
    model, serve, asked = served_model(config), config.serve, serving_reasoning(config).served
    parts: list[Any] = [
        model,
        model_identity(model, hub=config.hub),
        pick(config.engine, ENGINE_KEYS),
    ]
    parts += [pick(config.hub, ("trust_remote_code", "offline", "token_env")), asked.chat]
    numbers = (
        serve.llm_replicas,
        serve.max_llm_replicas,
        serve.routes_by_prefix,
        serve.request_timeout_s,
    )
    context = asked.max_prompt_tokens + asked.max_step_tokens
    return LLM_APP + digest([*parts, *numbers, context])[:12]


def corpus_app(config: "RunConfig") -> str:
    """Application name of the retriever; it changes with the corpus and with its deployment's settings."""
    serve = config.serve
    corpus = (str(config.folder.corpus.resolve()), serving_reasoning(config).corpus_version)
    numbers = (serve.retriever_replicas, serve.max_retriever_replicas, serve.retriever_cpus)
    parts = [*corpus, *numbers, places(config), serve.request_timeout_s]
    return CORPUS_APP + digest(parts)[:12]


def deploy(config: "RunConfig") -> None:
    """Start the applications, or update running ones to these settings without a pause.

    Raises StageError with the reason if they do not come up. The new LLM and retriever and one new ingress
    come up beside those of before first, so that what was served is still served if they do not.
    """
    from ray import serve

    names, before = (llm_app(config), corpus_app(config)), set(serve.status().applications)
    log = {"log_level": "WARNING"}

    def target(app: "Application", name: str, route: str | None = None) -> Any:
        return serve.RunTarget(app, name=name, route_prefix=route, logging_config=log)

    # what runs already stays: Serve would start its replicas anew
    builders = zip(names, (build_llm, build_retriever), strict=True)
    new = [target(builder(config), name) for name, builder in builders if name not in before]
    ingress = target(build_ingress(config, *names), APP, "/")
    if APP not in before:
        bring_up(config, *new, ingress)
        return
    try:
        trial = build_ingress(with_one_ingress(config), *names)
        bring_up(config, *new, target(trial, TRIAL_APP))
    except StageError:
        for name in set(names) - before:
            serve.delete(name)
        raise
    finally:
        serve.delete(TRIAL_APP)
    bring_up(config, ingress)  # the ingresses change over now that it answers
    wait_until_drained(config.serve.request_timeout_s + DRAIN_S)
    for name in before - set(names):
        if name.startswith((LLM_APP, CORPUS_APP)):
            serve.delete(name)


def with_one_ingress(config: "RunConfig") -> "RunConfig":
    """The settings with a single ingress replica."""
    fixed = {"ingress_replicas": 1, "max_ingress_replicas": None}
    return config.model_copy(update={"serve": config.serve.model_copy(update=fixed)})


def bring_up(config: "RunConfig", *apps: Any) -> None:
    """Run applications; raises StageError with the reason if one fails to start."""
    from ray import serve

    try:
        serve.run_many(apps)
    except RuntimeError as error:
        reason = why_not_up() or " ".join(str(error).split())[:300]
        raise StageError(f"serve: {reason}; see {config.folder.log('serve')}") from error


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
