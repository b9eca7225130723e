"""Memory of recent searches: chains of one corpus ask many queries twice (samples, attempts, models)."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from steper_ray.retrieval.protocol import Hit, Retriever

MAX_CACHED_SEARCHES: Final = 10_000
"""Newest distinct searches that are kept: some 20 MB with four passages of 500 bytes each."""


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """How many searches were asked for, and how many of them were answered from memory."""

    asked: int = 0
    cached: int = 0


class CachedRetriever:
    """A retriever that makes each of the newest searches once."""

    def __init__(self, retriever: Retriever, max_searches: int = MAX_CACHED_SEARCHES) -> None:
        self._retriever, self._max_searches = retriever, max_searches
        self._cache: OrderedDict[tuple[str, int], tuple[Hit, ...]] = OrderedDict()
        self.counts = SearchCounts()

    @property
    def version(self) -> str:
        """Version of the corpus that is searched."""
        return self._retriever.version

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages of each query, from memory where the same search was made before."""
        keys = [(query.strip(), k) for query in queries]
        new = list(dict.fromkeys(key for key in keys if key not in self._cache))
        asked = self.counts.asked + len(keys)
        self.counts = SearchCounts(asked, self.counts.cached + len(keys) - len(new))
        hits = {key: self._cache[key] for key in keys if key in self._cache}
        if new:
            found = await self._retriever.search([query for query, _ in new], k)
            hits.update(zip(new, map(tuple, found), strict=True))
        for key in keys:
            self._cache[key] = hits[key]
            self._cache.move_to_end(key)
        while len(self._cache) > self._max_searches:
            self._cache.popitem(last=False)
        return [list(hits[key]) for key in keys]
