"""What a step may ask: the k best passages for a piece of text, by BM25 over titles and texts.

A passage scores by its better field, title matches counting `title_boost` times. The query is data:
it is matched word by word, and nothing in it is syntax.
"""

import asyncio
import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from steper_ray.errors import InputError
from steper_ray.retrieval.corpus import SETTINGS_FILE
from steper_ray.retrieval.protocol import Hit
from steper_ray.schema import Passage

REMEMBERED_SEARCHES: Final = 10_000
"""Newest distinct searches whose passages are kept: some 20 MB with four passages of 500 bytes each."""


def search_in_one_thread() -> None:
    """Keep Lance, which takes every core otherwise, to one thread in this process; before it is imported.

    For searches beside an engine. What is set already stays.
    """
    for name in ("LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS"):
        os.environ.setdefault(name, "1")


class BM25Retriever:
    """Searches one corpus. Not fork-safe (Lance): open it in the process that uses it."""

    def __init__(self, folder: Path | str) -> None:
        """Raises InputError if the folder is not a corpus made by `steper index`.

        A corpus that takes its place later is not searched: that is for another Retriever.
        """
        import lance

        self._folder = Path(folder).resolve()
        try:
            self.settings: dict[str, Any] = json.loads((self._folder / SETTINGS_FILE).read_text())
        except FileNotFoundError:
            raise InputError(f"{folder}: not an indexed corpus; run `steper index` first") from None
        self._dataset = lance.dataset(str(self._folder))
        self._remembered = lru_cache(maxsize=REMEMBERED_SEARCHES)(self._search)

    @property
    def corpus_version(self) -> str:
        """The version of the corpus that is searched."""
        return str(self.settings["version"])

    @property
    def searches(self) -> tuple[int, int]:
        """How many searches there were, and how many of them were answered from memory."""
        info = self._remembered.cache_info()
        return info.hits + info.misses, info.hits

    def search(self, query: str, k: int) -> list[Hit]:
        """The k best passages, best first (ties by id); fewer if fewer match, none for no words.

        Raises InputError if the corpus is no longer there.
        """
        words = query.replace("\x00", " ").strip()
        return list(self._remembered(words, k)) if words else []

    def _search(self, words: str, k: int) -> tuple[Hit, ...]:
        from lance.query import MultiMatchQuery

        if not (self._folder / SETTINGS_FILE).exists():  # where Lance may just find nothing
            raise InputError(f"{self._folder}: the corpus was removed while it was open")
        boosts = [float(self.settings["title_boost"]), 1.0]
        table = self._dataset.to_table(
            columns=["id", "title", "text", "_score"],
            full_text_query=MultiMatchQuery(words, ["title", "text"], boosts=boosts),
            limit=k,
        )
        hits = [
            Hit(Passage(row["id"], row["title"], row["text"]), float(row["_score"]))
            for row in table.to_pylist()
        ]
        return tuple(sorted(hits, key=lambda hit: (-hit.score, hit.passage.id)))

    async def search_async(self, query: str, k: int) -> list[Hit]:
        """`search` in a thread, so that other chains go on meanwhile."""
        return await asyncio.to_thread(self.search, query, k)
