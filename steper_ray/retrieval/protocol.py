"""The retriever protocol: what a step searches with, and what a retriever's module provides."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from steper_ray.run.section import Section
from steper_ray.schema import Passage


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved passage and its score."""

    passage: Passage
    score: float


class Retriever(Protocol):
    """An opened corpus that answers searches."""

    @property
    def version(self) -> str:
        """Version of the corpus that is searched; chains and students carry it."""
        ...

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """The k best passages of each query, best first.

        What one query brings must not depend on the other queries of the call.
        """
        ...


@dataclass(frozen=True, slots=True)
class IndexReport:
    """What an index was built with."""

    settings: Section
    """The retriever's settings, complete: nothing in them is left to be found out."""
    remarks: tuple[str, ...] = ()
    """Lines for the person who indexes."""


class RetrieverModule(Protocol):
    """A module of `steper_ray.retrieval` that is an entry in RETRIEVERS."""

    @property
    def SETTINGS(self) -> type[Section]:
        """Its section of the run file, under `corpus.retriever`."""
        ...

    def index(self, folder: Path, settings: Any) -> IndexReport:
        """Add what searching needs to a Lance dataset of passages; needs a running Ray."""
        ...

    def open(self, folder: Path, settings: Any) -> Retriever:
        """Open an indexed corpus in the process that searches it."""
        ...
