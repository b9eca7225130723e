"""The retriever protocol: what a step searches with, and what it gets back."""

from dataclasses import dataclass
from typing import Protocol

from steper_ray.schema import Passage


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage found, and its BM25 score."""

    passage: Passage
    score: float


class Retriever(Protocol):
    """What answers a search."""

    async def search_async(self, query: str, k: int) -> list[Hit]: ...
