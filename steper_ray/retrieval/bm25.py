"""BM25 over titles and texts of a Lance dataset.

A passage scores by its better field, title matches counting `title_boost` times. The query is data:
it is matched word by word, and nothing in it is syntax.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from steper_ray.errors import InputError
from steper_ray.retrieval.corpus_record import CORPUS_FILE, read_corpus_record
from steper_ray.retrieval.protocol import Hit
from steper_ray.retrieval.settings import BM25Config
from steper_ray.schema import Passage

SETTINGS: Final = BM25Config


class BM25Retriever:
    """Searches one corpus by BM25. Not fork-safe (Lance): open it in the process that uses it."""

    def __init__(self, folder: Path | str, settings: BM25Config) -> None:
        """Raises InputError if the folder is not a corpus made by `steper index`.

        A corpus that later replaces it in the same place is not searched: open that one anew.
        """
        import lance

        self._folder = Path(folder).resolve()
        self.version = read_corpus_record(folder).version
        self._boosts = [settings.title_boost, 1.0]
        self._dataset = lance.dataset(str(self._folder))

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """`best_passages` of each query, in threads, so that other chains continue meanwhile."""
        searches = (asyncio.to_thread(self.best_passages, query, k) for query in queries)
        return list(await asyncio.gather(*searches))

    def best_passages(self, query: str, k: int) -> list[Hit]:
        """The k best passages, best first (ties by id); fewer if fewer match, none for no words.

        Raises InputError if the corpus was removed.
        """
        from lance.query import MultiMatchQuery

        words = query.replace("\x00", " ").strip()
        if not words:
            return []
        if not (self._folder / CORPUS_FILE).exists():  # where Lance may just find nothing
            raise InputError(f"{self._folder}: the corpus was removed while it was open")
        table = self._dataset.to_table(
            columns=["id", "title", "text", "_score"],
            full_text_query=MultiMatchQuery(words, ["title", "text"], boosts=self._boosts),
            limit=k,
        )
        hits = [_hit(row) for row in table.to_pylist()]
        return sorted(hits, key=lambda hit: (-hit.score, hit.passage.id))


def open(folder: Path, settings: BM25Config) -> BM25Retriever:
    """Open the index of a corpus."""
    return BM25Retriever(folder, settings)


def index(folder: Path, settings: BM25Config) -> None:
    """Build one inverted index over the titles and one over the texts, on Ray."""
    import lance
    import lance_ray
    import ray

    fragments = len(lance.dataset(str(folder)).get_fragments())
    workers = max(1, min(int(ray.cluster_resources().get("CPU", 1)), fragments))
    for column in ("title", "text"):
        lance_ray.create_scalar_index(
            str(folder),
            column=column,
            index_type="INVERTED",
            num_workers=workers,
            stem=settings.stem,
            remove_stop_words=settings.remove_stop_words,
            with_position=False,
        )


def _hit(row: dict[str, Any]) -> Hit:
    return Hit(Passage(row["id"], row["title"], row["text"]), float(row["_score"]))
