"""Searches that share a call: each has its own passages, or its own error."""

import asyncio
import pickle
from collections.abc import Sequence

import pytest

from steper_ray.errors import RowError, SearchFailedError
from steper_ray.retrieval.protocol import Hit
from steper_ray.serving.shared_search import search_each
from tests.serving.backend import PASSAGES


class Fragile:
    """Finds `ada` for everything, but fails for a call that has a query in it that it cannot bear."""

    version = "v1"

    def __init__(self) -> None:
        self.calls: list[tuple[list[str], int]] = []

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        self.calls.append((list(queries), k))
        if "bad" in queries:
            raise OSError("disk /secret\nis gone")
        if "refused" in queries:
            raise RowError("no tokens")
        return [[Hit(PASSAGES["ada"], float(k))] for _ in queries]


def test_searches_of_one_k_are_made_together_and_in_order() -> None:
    retriever = Fragile()
    found = asyncio.run(search_each(retriever, [("a", 1), ("b", 2), ("c", 1)]))
    assert [hits[0].score for hits in found if isinstance(hits, list)] == [1.0, 2.0, 1.0]
    assert sorted(retriever.calls) == [(["a", "c"], 1), (["b"], 2)]


def test_a_query_fails_alone(caplog: pytest.LogCaptureFixture) -> None:
    searches = [("a", 1), ("bad", 1), ("b", 1), ("refused", 1), ("c", 2)]
    found = asyncio.run(search_each(Fragile(), searches))
    assert [isinstance(hits, list) for hits in found] == [True, False, True, False, True]
    # as another process reads it
    bad, refused = (pickle.loads(pickle.dumps(found[number])) for number in (1, 3))
    assert isinstance(bad, SearchFailedError)
    assert str(bad) == "the search failed: disk /secret is gone"
    assert isinstance(refused, RowError)
    assert "OSError" in caplog.text  # where it came from is in the log
