"""No retrieval: every search finds nothing, for tasks that are reasoned about without passages."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from steper_ray.retrieval.corpus_record import read_corpus_record
from steper_ray.retrieval.protocol import Hit, IndexReport
from steper_ray.retrieval.settings import NoRetrievalConfig

SETTINGS: Final = NoRetrievalConfig


class NoRetriever:
    """Finds nothing."""

    def __init__(self, version: str) -> None:
        self.version = version

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:  # noqa: ARG002
        """No passage for any query."""
        return [[] for _ in queries]


def index(folder: Path, settings: NoRetrievalConfig) -> IndexReport:  # noqa: ARG001
    """Nothing to index."""
    return IndexReport(settings)


def open(folder: Path, settings: NoRetrievalConfig) -> NoRetriever:  # noqa: ARG001
    """A retriever that finds nothing, under the version that `steper index` recorded."""
    return NoRetriever(read_corpus_record(folder).version)
