"""The retriever deployment: each replica opens the corpus."""

import logging
from collections.abc import Sequence
from pathlib import Path

from ray import serve

from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.retrieval import limit_lance_threads, open_retriever
from steper_ray.retrieval.protocol import Hit
from steper_ray.run.versions import use
from steper_ray.serving.deployments.replica_log import start_replica_log
from steper_ray.serving.shared_search import search_each
from steper_ray.serving.stall import WatchedRetriever

logger = logging.getLogger(__name__)


@serve.deployment
class CorpusRetriever:
    """Retriever of one opened corpus."""

    def __init__(self, corpus: Path, log: LaunchLog, stall_s: float) -> None:
        """stall_s: see `WatchedRetriever`"""
        start_replica_log(log)
        self._use = use(corpus)
        limit_lance_threads()
        self._retriever = WatchedRetriever(open_retriever(corpus), stall_s)
        logger.info("%s is open, version %s", corpus, self._retriever.version)

    async def search(self, searches: Sequence[tuple[str, int]]) -> list[list[Hit] | Exception]:
        """What each search brings, which is a query and its k; see `search_each`."""
        return await search_each(self._retriever, searches)

    async def corpus_version(self) -> str:
        """Version of the searched corpus."""
        return self._retriever.version

    async def check_health(self) -> None:
        """Raises StalledError if a search hangs; Serve then replaces the replica."""
        self._retriever.check()
