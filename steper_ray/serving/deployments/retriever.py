"""The retriever behind the server: one opened corpus a replica."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from ray import serve

from steper_ray.ray_runtime.logs import redirect_output
from steper_ray.retrieval.bm25 import BM25Retriever, search_in_one_thread
from steper_ray.retrieval.protocol import Hit


@serve.deployment
class CorpusRetriever:
    """Searches the corpus."""

    def __init__(self, corpus: Path, log: Path) -> None:
        redirect_output(log)
        search_in_one_thread()
        self._retriever = BM25Retriever(corpus)

    async def search(self, searches: Sequence[tuple[str, int]]) -> list[list[Hit]]:
        """The best passages of each search, a query and its k; see `Retriever.search_async`."""
        found = (self._retriever.search_async(query, k) for query, k in searches)
        return list(await asyncio.gather(*found))

    async def corpus_version(self) -> str:
        """The version of the corpus that is searched."""
        return self._retriever.corpus_version
