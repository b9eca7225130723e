"""Retrievers by name: the shipped ones, a tiny one that a test adds, and the memory of searches."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, get_args

import pytest

from steper_ray.errors import ConfigError, InputError
from steper_ray.retrieval import RETRIEVERS, corpus_identity, corpus_version, open_retriever
from steper_ray.retrieval.corpus_record import (
    CORPUS_FILE,
    CorpusRecord,
    version_of,
    write_corpus_record,
)
from steper_ray.retrieval.protocol import Hit, IndexReport
from steper_ray.retrieval.search_cache import CachedRetriever, SearchCounts
from steper_ray.retrieval.settings import BM25Config, NoRetrievalConfig, RetrieverConfig
from steper_ray.run.dependencies import chains_identity
from steper_ray.run.identity import differences
from steper_ray.run.loading import load_config
from steper_ray.run.section import Section
from steper_ray.schema import Passage
from tests.fakes import ScriptedRetriever, hits_of
from tests.samples import index_corpus

A, B = (Passage(name, name.upper(), f"About {name}.") for name in "ab")


def record_of(folder: Path, **retriever: Any) -> Path:
    """A corpus of which only the record exists."""
    write_corpus_record(folder, CorpusRecord("c0ffee", 2, retriever))
    return folder


def run_file(folder: Path, corpus: dict[str, Any]) -> Any:
    (folder / "run.yaml").write_text(json.dumps({"corpus": corpus}))
    return load_config(folder / "run.yaml", [f"run.dir={folder / 'run'}"])


class EchoConfig(Section):
    """Settings of a retriever that exists in this test only."""

    type: Literal["echo"] = "echo"
    title: str = "Echo"


class EchoRetriever:
    """Finds its queries."""

    def __init__(self, version: str, title: str) -> None:
        self.version, self._title = version, title

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        return [[Hit(Passage(query, self._title, query), 1.0)][:k] for query in queries]


def test_a_retriever_is_a_module_and_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_echo(folder: Path, settings: EchoConfig) -> EchoRetriever:
        return EchoRetriever(corpus_version(folder), settings.title)

    echo = SimpleNamespace(
        SETTINGS=EchoConfig, index=lambda *_: IndexReport(EchoConfig()), open=open_echo
    )
    corpus = record_of(tmp_path, type="echo", title="T")
    with pytest.raises(InputError, match=r"indexed for the retriever 'echo', which this version"):
        open_retriever(corpus)
    monkeypatch.setitem(RETRIEVERS, "echo", echo)
    retriever = open_retriever(corpus)
    assert retriever.version == "c0ffee"
    assert hits_of(retriever, "x", 1) == [Hit(Passage("x", "T", "x"), 1.0)]
    assert corpus_identity(corpus) == {"corpus_version": "c0ffee", "retriever": "echo"}


def test_every_retriever_has_settings_in_the_run_file_and_a_module() -> None:
    union = get_args(get_args(RetrieverConfig)[0])
    types = {get_args(member)[0].model_fields["type"].default for member in union}
    assert types == set(RETRIEVERS)
    assert {
        name: module.SETTINGS().model_dump()["type"] for name, module in RETRIEVERS.items()
    } == {name: name for name in RETRIEVERS}


def test_settings_by_type(tmp_path: Path) -> None:
    assert run_file(tmp_path, {}).corpus.retriever == BM25Config()
    stemless = run_file(tmp_path, {"retriever": {"stem": False}}).corpus.retriever
    assert stemless == BM25Config(stem=False)
    assert run_file(tmp_path, {"retriever": {"type": "none"}}).corpus.retriever == (
        NoRetrievalConfig()
    )
    assert run_file(tmp_path, {"retriever": "none"}).corpus.retriever == NoRetrievalConfig()
    assert run_file(tmp_path, {"retriever": "bm25"}).corpus.retriever == BM25Config()
    for typed in ("bm52", {"type": "bm52"}):
        with pytest.raises(
            ConfigError, match=r"retriever: no retriever has type 'bm52'; did you mean bm25\?"
        ):
            run_file(tmp_path, {"retriever": typed})
    with pytest.raises(ConfigError, match=r"has type 'xyz'.*; choose one of bm25, none"):
        run_file(tmp_path, {"retriever": "xyz"})
    assert run_file(tmp_path, {"retriever": None}) == run_file(tmp_path, {})
    for wrong in (5, ["bm25"]):
        with pytest.raises(ConfigError, match=r"retriever: expected .* type: bm25 or none, got "):
            run_file(tmp_path, {"retriever": wrong})
    with pytest.raises(
        ConfigError, match=r"corpus\.retriever\.stemm: unknown key; did you mean stem\?"
    ):
        run_file(tmp_path, {"retriever": {"stemm": False}})
    with pytest.raises(
        ConfigError, match=r"corpus\.retriever\.title_weight: must be greater than 0"
    ):
        run_file(tmp_path, {"retriever": {"title_weight": 0}})


def test_a_version_is_of_the_passages_and_of_how_they_are_searched() -> None:
    assert version_of(7, BM25Config()) == version_of(7, BM25Config())
    assert version_of(8, BM25Config()) != version_of(7, BM25Config())
    assert version_of(7, BM25Config(stem=False)) != version_of(7, BM25Config())
    assert version_of(7, NoRetrievalConfig()) != version_of(8, NoRetrievalConfig())


def test_without_retrieval_no_passages_are_needed(tmp_path: Path) -> None:
    run = run_file(tmp_path, {"retriever": {"type": "none"}})
    info = index_corpus(run)
    assert info.passages == 0
    retriever = open_retriever(run.folder.corpus)
    assert retriever.version == info.version == corpus_version(run.folder.corpus)
    assert asyncio.run(retriever.search(["Who?", "Where?"], 4)) == [[], []]


def test_chains_of_another_retriever_differ_and_older_ones_are_of_bm25(tmp_path: Path) -> None:
    def record_now() -> dict[str, Any]:
        return chains_identity(corpus_identity(tmp_path), {"": {"teacher": "m"}}, "qa")

    record_of(tmp_path, type="bm25")
    bm25 = record_now()
    record_of(tmp_path, type="none")
    assert differences(bm25, record_now()) == ["retriever: 'bm25' → 'none'"]
    older = {name: value for name, value in bm25.items() if name != "retriever"}
    assert differences(older, bm25) == []
    assert differences(older, record_now()) == ["retriever: 'bm25' → 'none'"]


def test_a_record_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `steper index` first"):
        corpus_version(tmp_path)
    with pytest.raises(InputError, match="run `steper index` first"):
        open_retriever(tmp_path)
    with pytest.raises(InputError, match=r"retriever: .*run `steper index` again"):
        open_retriever(record_of(tmp_path, type="bm25", title_weight=-1))
    (tmp_path / CORPUS_FILE).write_text("{}")
    with pytest.raises(InputError, match="not the record of a corpus; run `steper index` again"):
        corpus_version(tmp_path)


def test_a_search_is_made_once() -> None:
    inner = ScriptedRetriever([A, B], [B], [A])
    retriever = CachedRetriever(inner, max_searches=2)
    first = hits_of(retriever, "x", 2)
    first.clear()  # what one caller does with its list is nothing to the next
    both = asyncio.run(retriever.search([" x", "y", "y"], 2))
    assert [[hit.passage for hit in hits] for hits in both] == [[A, B], [B], [B]]
    assert inner.queries == ["x", "y"]
    assert retriever.counts == SearchCounts(asked=4, cached=2)
    assert hits_of(retriever, "x", 1)[0].passage == A  # another k is another search
    assert inner.queries == ["x", "y", "x"]
    assert hits_of(retriever, "x", 2) == []  # the oldest search is forgotten, and made again
    assert retriever.counts == SearchCounts(asked=6, cached=2)


def test_remembered_searches_are_bounded_in_bytes() -> None:
    long = Passage("l", "Long", "word " * 2000)
    inner = ScriptedRetriever([long], [A], [long], [A])
    retriever = CachedRetriever(inner, max_bytes=12_000)
    for query in ("x", "y", "x", "y"):  # both fit
        hits_of(retriever, query, 2)
    assert inner.queries == ["x", "y"]
    hits_of(retriever, "z", 2)  # the oldest has to go
    assert hits_of(retriever, "y", 2)[0].passage == A
    assert inner.queries == ["x", "y", "z"]
    tight = CachedRetriever(ScriptedRetriever([long], [A]), max_bytes=5_000)
    assert hits_of(tight, "x", 2)[0].passage == long  # too large to be kept at all
    assert hits_of(tight, "x", 2)[0].passage == A


class HeldRetriever(ScriptedRetriever):
    """A scripted retriever that finds nothing before it is let go, and may fail then."""

    def __init__(self, *results: list[Passage]) -> None:
        super().__init__(*results)
        self.go_on = asyncio.Event()
        self.failure: Exception | None = None

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        found = await super().search(queries, k)
        await self.go_on.wait()
        if self.failure is not None:
            raise self.failure
        return found


async def several(retriever: CachedRetriever, *queries: list[str]) -> list[asyncio.Task[Any]]:
    """Searches that have begun, none of which is done."""
    tasks = [asyncio.create_task(retriever.search(each, 2)) for each in queries]
    for _ in range(3):
        await asyncio.sleep(0)
    assert not any(task.done() for task in tasks)
    return tasks


@pytest.mark.anyio
async def test_searches_at_the_same_time_are_made_once_too() -> None:
    inner = HeldRetriever([A], [B])
    retriever = CachedRetriever(inner)
    tasks = await several(retriever, ["x"], ["x"], [" x ", "y"], ["y", "x"])
    inner.go_on.set()
    found = [[[hit.passage for hit in hits] for hits in await task] for task in tasks]
    assert found == [[[A]], [[A]], [[A], [B]], [[B], [A]]]
    assert inner.queries == ["x", "y"]
    assert retriever.counts == SearchCounts(asked=6, cached=4)


@pytest.mark.anyio
async def test_who_waits_for_a_search_is_not_cancelled_with_who_began_it() -> None:
    inner = HeldRetriever([A])
    retriever = CachedRetriever(inner)
    first, second = await several(retriever, ["x"], ["x"])
    first.cancel()
    await asyncio.sleep(0)
    inner.go_on.set()
    assert [hit.passage for hit in (await second)[0]] == [A]
    assert first.cancelled()
    assert inner.queries == ["x"]


@pytest.mark.anyio
async def test_a_search_that_fails_is_made_again() -> None:
    inner = HeldRetriever([A], [A])
    retriever = CachedRetriever(inner)
    tasks = await several(retriever, ["x"], ["x"])
    inner.failure = InputError("no index")
    inner.go_on.set()
    assert [str(error) for error in await asyncio.gather(*tasks, return_exceptions=True)] == (
        ["no index"] * 2
    )
    inner.failure = None
    assert [hit.passage for hit in (await retriever.search(["x"], 2))[0]] == [A]
    assert inner.queries == ["x", "x"]
