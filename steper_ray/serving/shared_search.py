"""Searches of several questions in one call: each brings its passages or its own error."""

import asyncio
import logging
from collections.abc import Sequence

from steper_ray.errors import SearchFailedError, SteperError
from steper_ray.retrieval.protocol import Hit, Retriever
from steper_ray.text import short_message

logger = logging.getLogger(__name__)


async def search_each(
    retriever: Retriever, searches: Sequence[tuple[str, int]]
) -> list[list[Hit] | Exception]:
    """The best passages for each search, which is a query and its k, or why it failed.

    Queries of one k are searched together; where that fails, each by itself, so that a query fails alone.
    """
    of_k: dict[int, list[str]] = {}
    for query, k in searches:
        of_k.setdefault(k, []).append(query)
    hits = await asyncio.gather(*(_search(retriever, of_k[k], k) for k in of_k))
    in_turn = {k: iter(of_query) for k, of_query in zip(of_k, hits, strict=True)}
    return [next(in_turn[k]) for _, k in searches]


async def _search(
    retriever: Retriever, queries: Sequence[str], k: int
) -> Sequence[list[Hit] | Exception]:
    try:
        return await retriever.search(queries, k)
    except Exception as error:
        if len(queries) == 1:
            logger.exception("a search failed")
            return [_portable(error)]
    alone = await asyncio.gather(*(_search(retriever, [query], k) for query in queries))
    return [found for (found,) in alone]


def _portable(error: Exception) -> Exception:
    """An error that any process can read: of a class that is known there."""
    known = isinstance(error, SteperError)
    return error if known else SearchFailedError(f"the search failed: {short_message(error)}")
