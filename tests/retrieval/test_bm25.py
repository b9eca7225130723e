"""Corpus and search on a real Lance index."""

import asyncio
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steper_ray.errors import InputError, find_steper_error
from steper_ray.retrieval import corpus_version, open_retriever
from steper_ray.retrieval.search_cache import CachedRetriever
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from tests.fakes import hits_of
from tests.samples import index_corpus

ROWS = [
    {"id": "a", "title": "Red Fox", "text": "The fox hunts at night in the forests."},
    {"id": "b", "title": "Night", "text": "Night follows the day. Foxes are awake."},
    {"id": "c", "title": "Forest", "text": "A forest is full of trees."},
    {"id": "d", "title": 'Quotes: "x" [y]', "text": "Nothing (at all) {here} +x -y ~z*"},
]


def corpus_of(folder: Path, rows: list[dict[str, str]], files: int = 1) -> RunConfig:
    source = folder / "passages"
    source.mkdir()
    for number in range(files):
        part = rows[number::files]
        if number % 2:
            pq.write_table(pa.Table.from_pylist(part), source / f"{number}.parquet")
        else:
            lines = "".join(json.dumps(row) + "\n" for row in part)
            (source / f"{number}.jsonl").write_text(lines)
    (folder / "run.yaml").write_text("")
    return load_config(
        folder / "run.yaml", [f"run.dir={folder / 'run'}", f"corpus.passages={source}"]
    )


@pytest.fixture(scope="module")
def retriever(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> CachedRetriever:
    config = corpus_of(tmp_path_factory.mktemp("corpus"), ROWS, files=2)
    assert index_corpus(config).passages == 4
    return open_retriever(config.folder.corpus)


def test_the_best_passages_come_first_with_scores(retriever: CachedRetriever) -> None:
    hits = hits_of(retriever, "foxes in forests", 4)
    assert hits[0].passage.id == "c"  # a title match counts twice
    assert {hit.passage.id for hit in hits} == {"a", "b", "c"}
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.score > 0 for hit in hits)
    assert hits[0].passage.title == "Forest"
    assert hits[0].passage.text == ROWS[2]["text"]
    assert len(hits_of(retriever, "foxes in forests", 1)) == 1


def test_a_word_in_the_title_counts_more(retriever: CachedRetriever) -> None:
    assert [h.passage.id for h in hits_of(retriever, "night", 2)] == ["b", "a"]


@pytest.mark.parametrize(
    "query",
    [
        "",
        " ",
        "\n",
        "?",
        '"',
        "a:b",
        "title:fox",
        "[x TO y]",
        "(((",
        "🙂",
        "\x00",
        "AND OR NOT",
        "*",
    ],
)
def test_a_query_is_data(retriever: CachedRetriever, query: str) -> None:
    hits_of(retriever, query, 3)


def test_queries_of_one_call_are_answered_as_alone(retriever: CachedRetriever) -> None:
    queries = ["foxes in forests", "", "night", "foxes in forests"]
    together = asyncio.run(retriever.search(queries, 2))
    assert together == [hits_of(retriever, query, 2) for query in queries]
    assert together[1] == []
    assert together[0] == together[3] != together[2]


@given(query=st.text(max_size=60))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_no_text_makes_a_search_fail(retriever: CachedRetriever, query: str) -> None:
    assert len(hits_of(retriever, query, 2)) <= 2


def test_syntax_in_a_query_is_matched_as_words(retriever: CachedRetriever) -> None:
    assert [h.passage.id for h in hits_of(retriever, "-fox NOT hunts:", 1)] == ["a"]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([], "no passage in it; give a table with a column text, and best with id and title"),
        (
            [ROWS[0], ROWS[1], {**ROWS[2], "id": "a"}],
            "row 3: column 'id': 'a' is already the id of",
        ),
        ([ROWS[0], {"id": "b", "title": "T"}], "row 2: no column 'text'"),
    ],
)
def test_a_bad_corpus_is_refused_and_leaves_nothing(
    ray_cluster: None, tmp_path: Path, rows: list[dict[str, str]], said: str
) -> None:
    config = corpus_of(tmp_path, rows)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Ray wraps what its workers raise
        index_corpus(config)
    error = find_steper_error(caught.value)
    assert isinstance(error, InputError)
    assert said in str(error)
    assert not config.folder.corpus.exists()


def test_a_folder_that_is_no_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run `steper index` first"):
        open_retriever(tmp_path)


def test_a_corpus_goes_on_being_searched_where_another_took_its_place(
    ray_cluster: None, tmp_path: Path
) -> None:
    config = corpus_of(tmp_path, ROWS)
    index_corpus(config)
    open_since = open_retriever(config.folder.corpus)
    source = tmp_path / "passages" / "0.jsonl"
    source.write_text(source.read_text().replace('"id": "', '"id": "new-'))
    index_corpus(config)
    assert (
        hits_of(open_retriever(config.folder.corpus), "foxes in forests", 1)[0].passage.id
        == "new-c"
    )
    assert hits_of(open_since, "foxes in forests", 1)[0].passage.id == "c"
    index_corpus(config)
    assert len(list(config.folder.root.glob("*.lance"))) == 3  # the link, and two that it led to
    with pytest.raises(InputError, match=r"corpus-.*\.lance: the corpus was removed while"):
        hits_of(open_since, "night", 1)

    finished = config.folder.corpus.resolve()
    config.folder.corpus.unlink()
    finished.rename(config.folder.corpus)  # a folder itself, as a copy that follows links makes it
    info = index_corpus(config)
    assert corpus_version(config.folder.corpus) == info.version
    # the link, the newest and, as one more version, the folder that was copied
    assert len(list(config.folder.root.glob("*.lance"))) == 3
    index_corpus(config)
    assert finished.name not in {path.name for path in config.folder.root.glob("*.lance")}
    assert len(list(config.folder.root.glob("*.lance"))) == 3
