"""The ingress deployment: HTTP in, the reasoning loop over replicas of LLM and retriever, HTTP out."""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ray import serve
from ray.serve.handle import DeploymentHandle

from steper_ray.models.loading import load_tokenizer
from steper_ray.models.settings import HubConfig
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.run.versions import use
from steper_ray.serving.deployments.replica_log import start_replica_log
from steper_ray.serving.keys import KeyRing, Keys, RateLimiter
from steper_ray.serving.overrides import ServingReasoning
from steper_ray.serving.settings import ServeConfig

if TYPE_CHECKING:
    from fastapi import FastAPI


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


@serve.deployment
@serve.ingress()
class AnswerServer:
    """The ingress: the HTTP API, and the reasoning loop over the replicas."""

    def __init__(
        self,
        llm: DeploymentHandle[Any] | str,
        retriever: DeploymentHandle[Any] | str,
        rates: DeploymentHandle[Any],
        *,
        model: str,
        name: str,
        reasoning: ServingReasoning,
        config: ServeConfig,
        places: int,
        keys: Keys,
        hub: HubConfig,
        log: LaunchLog,
    ) -> None:
        """llm, retriever: their handles, or the names of their applications
        name: the model's name in the API
        keys: keys of the environment that the server was started in
        """
        start_replica_log(log)
        self._use = use(Path(model))
        from ray.serve import metrics

        from steper_ray.ray_runtime.metrics import RayMetrics
        from steper_ray.serving.access_log import access_log
        from steper_ray.serving.answering import AnswerService
        from steper_ray.serving.metrics import METRICS
        from steper_ray.serving.replicas import ReplicaBackend

        if isinstance(llm, str):
            llm = serve.get_deployment_handle(LLM, llm)
        if isinstance(retriever, str):
            retriever = serve.get_deployment_handle(RETRIEVER, retriever)
        record = RayMetrics(METRICS, metrics)
        settings = reasoning.settings
        encoder = PromptEncoder(load_tokenizer(model, hub), settings.chat, settings.template_date)
        self._service = AnswerService(
            ReplicaBackend(
                llm,
                retriever,
                encoder,
                record,
                corpus_version=reasoning.corpus_version,
                by_prefix=config.routes_by_prefix,
            ),
            reasoning,
            config,
            model=name,
            places=places,
            record=record,
        )
        rank = serve.get_replica_context().rank.rank
        self._write_access = access_log(log, rank, config.access_log)
        self._keys = KeyRing(config, keys)
        self._rates = rates
        logger.info("answers with %s, %d questions at a time", model, places)

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
