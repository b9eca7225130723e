"""The fused deployment: one replica holds the engine, the corpus and the reasoning loop, in one event loop.

Between its replicas and the client there is Serve's proxy alone. In the `apart` layout each step of a
question crosses processes four times more, which costs a fifth of the throughput; but there the LLM,
the retriever and the ingress scale, and die, each by itself.
"""

import logging
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.handle import DeploymentHandle

from steper_ray.retrieval import limit_lance_threads, open_retriever
from steper_ray.run.versions import use
from steper_ray.serving.deployments.ingress import (
    HttpApi,
    answer_service,
    prompt_encoder,
    serve_metrics,
)
from steper_ray.serving.deployments.llm import LocalLLM
from steper_ray.serving.deployments.replica_log import start_replica_log
from steper_ray.serving.in_process import LocalBackend
from steper_ray.serving.keys import KeyRing, Keys
from steper_ray.serving.server_spec import ServerSpec
from steper_ray.serving.stall import WatchedRetriever

logger = logging.getLogger(__name__)


@serve.deployment
@serve.ingress()
class FusedServer(HttpApi):
    """The HTTP API over an engine and a corpus in the same process."""

    async def __init__(  # type: ignore[misc]
        self, rates: DeploymentHandle[Any], spec: ServerSpec, keys: Keys
    ) -> None:
        """keys: keys of the environment that the server was started in; raises what `LocalLLM` raises."""
        start_replica_log(spec.log)
        self._use = [use(Path(spec.model)), use(spec.corpus)]
        limit_lance_threads()
        ring = KeyRing(spec.serve, keys)  # what can fail soon comes before the engine
        encoder = prompt_encoder(spec)
        self._retriever = WatchedRetriever(open_retriever(spec.corpus), spec.serve.stall_s)
        self._llm = LocalLLM()
        await self._llm.start(spec.llm)
        backend = LocalBackend(self._llm, self._retriever, encoder)
        service = answer_service(backend, spec, serve_metrics())
        super().__init__(service, ring, rates, spec.log)
        logger.info(
            "answers with %s from %s, %d questions at a time", spec.model, spec.corpus, spec.places
        )

    async def unfinished(self) -> int:
        """Number of unfinished requests in the engine."""
        return await self._llm.unfinished()

    async def check_health(self) -> None:
        """Raises if the engine is dead, or it or a search hangs; Serve then replaces the replica."""
        await self._llm.check_health()
        self._retriever.check()
