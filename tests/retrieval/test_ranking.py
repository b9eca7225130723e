"""Which passages a search finds, on real Lance indexes: against an independent BM25, and by recall."""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import bm25s
import numpy as np
import pyarrow as pa
import pytest

from steper_ray.arrow import PASSAGE_SCHEMA
from steper_ray.retrieval import bm25
from steper_ray.retrieval.analysis import analyze_query
from steper_ray.retrieval.bm25 import BM25Retriever, searched_fields
from steper_ray.retrieval.corpus_record import CorpusRecord, write_corpus_record
from steper_ray.retrieval.settings import BM25Config
from tests.data.published_rows import hotpotqa_rows, musique_rows
from tests.data.write_hard_world import FOLDER, QUESTIONS, files, passages

Row = dict[str, str]
SYLLABLES: Final = ("ba", "ke", "lo", "mi", "nu", "ra", "se", "ti", "vo", "zu", "dra", "fel", "gor")


RELATIONS: Final = (
    *("founder", "architect", "river", "bridge", "harvest", "festival", "treaty", "library"),
    *("mayor", "museum", "railway", "garden", "school", "market", "tower"),
)


def indexed(
    folder: Path, rows: Sequence[Row], *, fragments: int = 1, **settings: object
) -> BM25Retriever:
    """A corpus of so many fragments, its rows in the order given."""
    import lance

    table = pa.Table.from_pylist(list(rows), schema=PASSAGE_SCHEMA)
    per_file = math.ceil(len(rows) / fragments)
    dataset = lance.write_dataset(table, str(folder), max_rows_per_file=per_file)
    assert len(dataset.get_fragments()) == fragments
    made = bm25.index(folder, BM25Config.model_validate(settings))
    write_corpus_record(folder, CorpusRecord("c0ffee", len(rows), made.settings.model_dump()))
    assert isinstance(made.settings, BM25Config)
    return bm25.open(folder, made.settings)


def recall(
    retriever: BM25Retriever, asked: Sequence[tuple[str, Sequence[str]]], k: int = 4
) -> float:
    """Mean share of the passages that a query asks for among its k best."""
    shares = []
    for query, wanted in asked:
        ids = {hit.passage.id for hit in retriever.best_passages(query, k)}
        shares.append(len(ids & set(wanted)) / len(wanted))
    return sum(shares) / len(shares)


def word(rng: random.Random, syllables: int) -> str:
    return "".join(rng.choices(SYLLABLES, k=syllables))


# Ranking ----------------------------------------------------------------------------------------------


def tied_rows() -> list[Row]:
    """300 passages of 40 words, among them many equal ones and many of equal score."""
    rng = random.Random(3)
    words = [word(rng, 2) for _ in range(40)]
    texts = [" ".join(rng.choices(words, k=rng.choice((3, 8, 60)))) for _ in range(120)]
    return [
        {"id": f"p{n:03}", "title": rng.choice(words) if n % 3 else "", "text": rng.choice(texts)}
        for n in range(300)
    ]


def bm25s_scores(fields: Sequence[Sequence[str]], words: Sequence[str]) -> np.ndarray:
    """BM25 of each field for the words, by bm25s; empty fields count nowhere."""
    given = [number for number, field in enumerate(fields) if field]
    model = bm25s.BM25(method="lucene", k1=1.2, b=0.75, dtype="float64")
    model.index([list(fields[number]) for number in given], show_progress=False)
    scores = np.zeros(len(fields))
    if known := [word for word in words if word in model.vocab_dict]:
        # Lucene leaves the factor k1 + 1 out since version 8
        scores[given] = model.get_scores(known) * 2.2
    return scores


def reference(rows: Sequence[Row], query: str) -> list[tuple[float, str]]:
    """Every matching passage by bm25s, best first, ties by id."""
    fields = [searched_fields(row["title"], row["text"], "unicode", 8) for row in rows]
    words = analyze_query(query, "unicode", remove_stop_words=True).split()
    title, text = (bm25s_scores([f[n].split() for f in fields], words) for n in (0, 1))
    best = np.maximum(2 * title, text)
    found = [(float(score), row["id"]) for score, row in zip(best, rows, strict=True) if score]
    return sorted(found, key=lambda item: (-round(item[0], 9), item[1]))


@pytest.fixture(scope="module")
def layouts(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> list[BM25Retriever]:
    """The same passages in 1, 4 and 16 fragments, and in three orders."""
    rows = tied_rows()
    shuffled = random.Random(1).sample(rows, len(rows))
    folder = tmp_path_factory.mktemp("layouts")
    return [
        indexed(folder / "1.lance", rows, analyzer="unicode"),
        indexed(folder / "4.lance", rows[::-1], fragments=4, analyzer="unicode"),
        indexed(folder / "16.lance", shuffled, fragments=16, analyzer="unicode"),
    ]


def test_the_best_are_those_of_an_independent_bm25_whatever_the_layout(
    layouts: list[BM25Retriever],
) -> None:
    rows = tied_rows()
    rng = random.Random(5)
    words = sorted({w for row in rows for w in row["text"].split()})
    queries = [" ".join(rng.sample(words, rng.randint(1, 6))) for _ in range(60)]
    ties = 0
    for query in queries:
        expected = reference(rows, query)
        for k in (1, 4, 10):
            best = expected[:k]
            ties += len(expected) > k and math.isclose(best[-1][0], expected[k][0], rel_tol=1e-9)
            for retriever in layouts:
                hits = retriever.best_passages(query, k)
                assert [hit.passage.id for hit in hits] == [id for _, id in best], query
                np.testing.assert_allclose(
                    [hit.score for hit in hits], [score for score, _ in best], rtol=1e-4
                )
    assert ties > 30, "equal scores at the k-th place are what this is about"


# Recall -----------------------------------------------------------------------------------------------


def articles(
    passages: int, *, mentions: int, seed: int
) -> tuple[list[Row], list[tuple[str, list[str]]]]:
    """300 articles of so many passages, each with one fact, and a question for every fact.

    mentions: every so many passages name the article, as the first does; the others only in their title
    """
    rng = random.Random(seed)
    common = [word(rng, 2) for _ in range(400)]

    def filler(least: int, most: int) -> str:
        return " ".join(rng.choices(common, k=rng.randint(least, most)))

    rows, questions = [], []
    for article in range(300):
        title = f"{word(rng, 3).capitalize()} {word(rng, 3).capitalize()}"
        for number, relation in enumerate(RELATIONS[:passages]):
            subject = "It" if number % mentions else title
            fact = f"The {relation} of the place was {word(rng, 4).capitalize()}."
            text = f"{subject} {filler(20, 120)}. {fact} {filler(5, 60)}."
            rows.append({"id": f"{article}-{number}", "title": title, "text": text})
            questions.append((f"Who was the {relation} of {title}?", [f"{article}-{number}"]))
    return rows, rng.sample(questions, 300)


@pytest.mark.parametrize("mentions", [1, 3])
@pytest.mark.parametrize("passages", [1, 2, 4, 8, 15])
def test_the_right_passage_of_an_article_is_found(
    tmp_path: Path, passages: int, mentions: int
) -> None:
    rows, questions = articles(passages, mentions=mentions, seed=passages)
    assert recall(indexed(tmp_path / "c.lance", rows), questions) >= 0.99


def published(rows: Sequence[dict]) -> tuple[list[Row], list[tuple[str, list[str]]]]:
    """The passages of published questions, and each question with those that support its answer."""
    passages: dict[tuple[str, str], str] = {}
    questions = []
    for row in rows:
        if "context" in row:
            facts = {title for title, _ in row["supporting_facts"]}
            contexts = [
                (title, " ".join(text).strip(), title in facts) for title, text in row["context"]
            ]
        else:
            contexts = [
                (p["title"], p["paragraph_text"], p["is_supporting"]) for p in row["paragraphs"]
            ]
        wanted = []
        for title, text, supports in contexts:
            id = passages.setdefault((title, text), str(len(passages)))
            wanted += [id] if supports else []
        questions.append((row["question"], wanted))
    found = [{"id": id, "title": title, "text": text} for (title, text), id in passages.items()]
    return found, questions


@pytest.mark.parametrize(
    ("rows", "least"),
    [
        # what was found by the better of title and text, the title counting twice
        (hotpotqa_rows(), 0.7875),
        (musique_rows(), 0.3916),
        ([*hotpotqa_rows(), *musique_rows()], 0.6983),
    ],
)
def test_recall_on_published_questions(tmp_path: Path, rows: list[dict], least: float) -> None:
    passages, questions = published(rows)
    assert recall(indexed(tmp_path / "c.lance", passages), questions) >= least


# Languages --------------------------------------------------------------------------------------------

ASKED: Final = (
    ("대한민국의 수도는 어디인가?", "ko1"),
    ("서울", "ko1"),
    ("해운대는 어디에 있나", "ko2"),
    ("日本の首都はどこですか", "ja1"),
    ("商人の街", "ja4"),
    ("中国最长的河流是什么？", "zh1"),
    ("九个省区", "zh4"),
    ("เมืองหลวงของประเทศไทยคืออะไร", "th1"),
    ("ภาคเหนือ", "th2"),
    ("ما هي عاصمة مصر؟", "ar1"),
    ("أقدم مدن العالم", "ar2"),
    ("Wie heisst die Fussgängerzone in Köln?", "de1"),
    ("Ha Noi", "vi1"),
    ("Where does the Café Olé stand in Zurich?", "nfd"),
    ("cooperation of two towns", "soft"),
    ("Who founded AT&T in Dallas?", "html"),
    ("The Who", "band"),
    ("Where did Beyonce grow up?", "singer"),
    ("It", "it"),
)


@pytest.mark.parametrize("analyzer", ["english", "unicode", "ngram"])
def test_passages_of_any_language_are_found(tmp_path: Path, analyzer: str) -> None:
    retriever = indexed(tmp_path / "c.lance", list(passages()), analyzer=analyzer)
    found = {query: retriever.best_passages(query, 1) for query, _ in ASKED}
    missed = {
        q: hits for q, hits in found.items() if [h.passage.id for h in hits] != [dict(ASKED)[q]]
    }
    assert missed == {}


def test_parts_of_words_are_found_by_ngrams(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "title": "Part", "text": "Order XK-3077-B."},
        {"id": "b", "title": "B", "text": "None."},
    ]
    hits = indexed(tmp_path / "n.lance", rows, analyzer="ngram").best_passages("3077", 1)
    assert [hit.passage.id for hit in hits] == ["a"]
    assert indexed(tmp_path / "w.lance", rows, analyzer="unicode").best_passages("307", 1) == []


def test_what_is_said_of_the_analyzer(tmp_path: Path) -> None:
    german = [
        {
            "id": "a",
            "title": "Ulm",
            "text": "Die Stadt liegt an der Donau und ist eine der ältesten.",
        }
    ]
    import lance

    table = pa.Table.from_pylist(german, schema=PASSAGE_SCHEMA)

    def remarks(name: str, **settings: object) -> tuple[str, ...]:
        lance.write_dataset(table, str(tmp_path / name))
        return bm25.index(tmp_path / name, BM25Config.model_validate(settings)).remarks

    assert remarks("1") == (
        "analyzer: german, which the passages look like (corpus.retriever.analyzer)",
    )
    assert remarks("2", analyzer="german") == ()
    assert remarks("3", analyzer="ngram") == ()
    (warning,) = remarks("4", analyzer="english")
    assert warning.startswith(
        "analyzer: english, but the passages look german; set corpus.retriever"
    )


def test_the_hard_world_is_searched(tmp_path: Path) -> None:
    retriever = indexed(tmp_path / "c.lance", list(passages()))
    for name, text in files().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == text
    for id, question, _, supporting, *steps in QUESTIONS:
        queries = (question, *steps[:-1])
        hits = [hit for query in queries for hit in retriever.best_passages(query, 4)]
        assert set(supporting) <= {hit.passage.id for hit in hits}, id
