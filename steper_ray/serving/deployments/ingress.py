"""The ingress deployment: HTTP in, the reasoning loop over replicas of LLM and retriever, HTTP out."""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ray import serve
from ray.serve.handle import DeploymentHandle

from steper_ray.models.folder import model_version
from steper_ray.models.loading import load_tokenizer
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.run.versions import use
from steper_ray.serving.deployments.replica_log import start_replica_log
from steper_ray.serving.keys import KeyRing, Keys, RateLimiter
from steper_ray.serving.server_spec import ServerSpec

if TYPE_CHECKING:
    from fastapi import FastAPI

    from steper_ray.ray_runtime.metrics import RayMetrics
    from steper_ray.serving.answering import AnswerService
    from steper_ray.serving.backend import Backend


logger = logging.getLogger(__name__)


LLM: Final = "llm"
"""Name of the LLM's deployment."""


RETRIEVER: Final = "retriever"
"""Name of the retriever's deployment."""


@serve.deployment
class KeyRates:
    """Counter of requests by key, shared by all ingresses."""

    def __init__(self) -> None:
        self._limiter = RateLimiter()

    async def take(self, owner: str, per_minute: int, requests: int = 1) -> float:
        """See `RateLimiter.take`."""
        return self._limiter.take(owner, per_minute, requests)


class HttpApi:
    """What every replica that takes HTTP requests does: the API, over a service."""

    def __init__(
        self,
        service: "AnswerService",
        keys: KeyRing,
        rates: DeploymentHandle[Any],
        log: LaunchLog,
    ) -> None:
        """rates: the counter of requests by key; log: beside which the access log is written"""
        from steper_ray.serving.access_log import access_log

        self._service, self._keys, self._rates = service, keys, rates
        rank = serve.get_replica_context().rank.rank
        self._write_access = access_log(log, rank, service.config.access_log)

    async def __serve_build_asgi_app__(self) -> "FastAPI":
        from steper_ray.serving.api.routes import build_api

        return build_api(self._service, self._keys, self._take, self._write_access)

    async def _take(self, owner: str, per_minute: int, requests: int) -> float:
        from steper_ray.serving.refusals import RefusedError
        from steper_ray.serving.replicas import ask_again

        try:
            async with asyncio.timeout(self._service.config.request_timeout_s):
                seconds: float = await ask_again(
                    lambda: self._rates.take.remote(owner, per_minute, requests)
                )
        except TimeoutError:
            message = "the count of this key's requests does not answer; asking again is safe"
            raise RefusedError(503, "rates_lost", message, retry_after=1) from None
        return seconds


def serve_metrics() -> "RayMetrics":
    """Records into the metrics of the server, with this replica's tags."""
    from ray.serve import metrics

    from steper_ray.ray_runtime.metrics import RayMetrics
    from steper_ray.serving.metrics import METRICS

    return RayMetrics(METRICS, metrics)


def prompt_encoder(spec: ServerSpec) -> PromptEncoder:
    """The encoder of the served model's prompts."""
    settings = spec.reasoning.settings
    return PromptEncoder(
        load_tokenizer(spec.model, spec.hub), settings.chat, settings.template_date
    )


def answer_service(backend: "Backend", spec: ServerSpec, record: "RayMetrics") -> "AnswerService":
    """The service of a replica."""
    from steper_ray.serving.answering import AnswerService

    return AnswerService(
        backend,
        spec.reasoning,
        spec.serve,
        model=spec.model_name,
        model_version=model_version(spec.model, spec.hub),
        places=spec.places,
        record=record,
    )


@serve.deployment
@serve.ingress()
class AnswerServer(HttpApi):
    """The ingress: the HTTP API, and the reasoning loop over the replicas."""

    def __init__(
        self,
        llm: DeploymentHandle[Any] | str,
        retriever: DeploymentHandle[Any] | str,
        rates: DeploymentHandle[Any],
        spec: ServerSpec,
        keys: Keys,
    ) -> None:
        """llm, retriever: their handles, or the names of their applications
        keys: keys of the environment that the server was started in
        """
        start_replica_log(spec.log)
        self._use = use(Path(spec.model))
        from steper_ray.serving.replicas import ReplicaBackend

        if isinstance(llm, str):
            llm = serve.get_deployment_handle(LLM, llm)
        if isinstance(retriever, str):
            retriever = serve.get_deployment_handle(RETRIEVER, retriever)
        record = serve_metrics()
        backend = ReplicaBackend(
            llm,
            retriever,
            prompt_encoder(spec),
            record,
            corpus_version=spec.reasoning.corpus_version,
            by_prefix=spec.serve.routes_by_prefix,
        )
        service = answer_service(backend, spec, record)
        super().__init__(service, KeyRing(spec.serve, keys), rates, spec.log)
        logger.info("answers with %s, %d questions at a time", spec.model, spec.places)
