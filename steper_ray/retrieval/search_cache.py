"""Memory of recent searches: chains of one corpus ask many queries twice (samples, attempts, models)."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from sys import getsizeof
from typing import Final

from steper_ray.retrieval.protocol import Hit, Retriever

MAX_CACHED_SEARCHES: Final = 10_000
"""Newest distinct searches that are kept: some 20 MB with four passages of 500 bytes each."""


MAX_CACHED_BYTES: Final = 64 * 2**20
"""Most bytes of those: with long passages, or many of them for a search, fewer are kept."""


OBJECT_BYTES: Final = 200
"""About how many bytes a hit takes beside its texts, and an entry of the memory beside its hits."""


_Found = dict[tuple[str, int], tuple[Hit, ...]]
"""Query and k of a search → its hits."""


@dataclass(frozen=True, slots=True)
class SearchCounts:
    """How many searches were asked for, and how many needed no search of their own: the same one was in
    memory, or in progress."""

    asked: int = 0
    cached: int = 0


class CachedRetriever:
    """A retriever that makes each of the newest searches once."""

    def __init__(
        self,
        retriever: Retriever,
        max_searches: int = MAX_CACHED_SEARCHES,
        max_bytes: int = MAX_CACHED_BYTES,
    ) -> None:
        self._retriever, self._max_searches, self._max_bytes = retriever, max_searches, max_bytes
        self._bytes = 0
        self._cache: OrderedDict[tuple[str, int], tuple[Hit, ...]] = OrderedDict()
        self._in_progress: dict[tuple[str, int], asyncio.Task[_Found]] = {}
        self.counts = SearchCounts()

    @property
    def version(self) -> str:
        """Version of the corpus that is searched."""
        return self._retriever.version

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages of each query, from memory where the same search was made before."""
        keys = [(query.strip(), k) for query in queries]
        hits = {key: self._cache[key] for key in keys if key in self._cache}
        for key in hits:
            self._cache.move_to_end(key)
        others = dict.fromkeys(key for key in keys if key not in hits)
        new = [key for key in others if key not in self._in_progress]
        asked = self.counts.asked + len(keys)
        self.counts = SearchCounts(asked, self.counts.cached + len(keys) - len(new))
        if new:
            task = asyncio.create_task(self._search_new(new, k))
            self._in_progress |= dict.fromkeys(new, task)
        # Shielded: another caller may wait for the same search when this one is cancelled.
        tasks = {self._in_progress[key] for key in others}
        for found in await asyncio.gather(*map(asyncio.shield, tasks)):
            hits |= found
        return [list(hits[key]) for key in keys]

    async def _search_new(self, keys: Sequence[tuple[str, int]], k: int) -> _Found:
        """Make searches and remember their hits; one that fails is forgotten, so that it is made again."""
        try:
            hits = await self._retriever.search([query for query, _ in keys], k)
            found = dict(zip(keys, map(tuple, hits), strict=True))
        finally:
            for key in keys:
                del self._in_progress[key]
        for key, remembered in found.items():
            if key not in self._cache:
                self._bytes += size_of(key, remembered)
            self._cache[key] = remembered
        while len(self._cache) > self._max_searches or self._bytes > self._max_bytes:
            self._bytes -= size_of(*self._cache.popitem(last=False))
        return found


def size_of(key: tuple[str, int], hits: Sequence[Hit]) -> int:
    """About how many bytes of memory a search takes with its hits."""
    passages = [hit.passage for hit in hits]
    texts = [key[0], *(text for p in passages for text in (p.id, p.title, p.text))]
    return sum(map(getsizeof, texts)) + OBJECT_BYTES * (1 + len(passages))
