"""Searching the corpus: retrievers by name, and how an indexed corpus is opened."""

import os
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from steper_ray.errors import InputError
from steper_ray.retrieval import bm25, none
from steper_ray.retrieval.corpus_record import CORPUS_FILE, read_corpus_record
from steper_ray.retrieval.protocol import RetrieverModule
from steper_ray.retrieval.search_cache import CachedRetriever
from steper_ray.run.section import first_reason

RETRIEVERS: Final[dict[str, RetrieverModule]] = {"bm25": bm25, "none": none}
"""Retriever modules by the `type` of `corpus.retriever`."""


def open_retriever(folder: Path | str) -> CachedRetriever:
    """Open a corpus for searching, with the settings that it was indexed with.

    Raises InputError for a folder that `steper index` has not made, or made for an unknown retriever.
    """
    settings = read_corpus_record(folder).retriever
    module = RETRIEVERS.get(str(settings.get("type")))
    if module is None:
        raise InputError(
            f"{folder}: indexed for the retriever {settings.get('type')!r}, which this version does not "
            f"have ({', '.join(RETRIEVERS)}); run `steper index` again"
        )
    try:
        checked = module.SETTINGS.model_validate(settings)
    except ValidationError as error:
        raise InputError(
            f"{Path(folder) / CORPUS_FILE}: retriever: {first_reason(error)}; run `steper index` again"
        ) from None
    return CachedRetriever(module.open(Path(folder), checked))


def corpus_version(folder: Path | str) -> str:
    """Version of an indexed corpus, read from its record without opening it."""
    return read_corpus_record(folder).version


def corpus_identity(folder: Path | str) -> dict[str, str]:
    """What chains depend on of an indexed corpus: its version and the retriever that it is searched by."""
    record = read_corpus_record(folder)
    return {"corpus_version": record.version, "retriever": str(record.retriever["type"])}


def limit_lance_threads() -> None:
    """Keep Lance to one thread in this process; call it before Lance is imported.

    Otherwise Lance takes every core, which disturbs an engine in the same process or on the same machine.
    What the environment sets already stays.
    """
    for name in ("LANCE_CPU_THREADS", "TOKIO_WORKER_THREADS"):
        os.environ.setdefault(name, "1")
