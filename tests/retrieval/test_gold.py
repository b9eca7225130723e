"""Gold passages that the corpus has or lacks, and the share that steps found, by hand."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from steper_ray.arrow import PASSAGE_SCHEMA
from steper_ray.data.row_counts import row_count_lines
from steper_ray.errors import InputError
from steper_ray.retrieval.corpus_record import CorpusRecord, write_corpus_record
from steper_ray.retrieval.gold import asked_questions, found_by_step, recall_by_step
from steper_ray.run.config import RunConfig

NAMED = {"q1": ["p1", "p2"], "q2": ["p2", "p8"], "q3": [], "q4": ["p9", "p7", "p6"]}


def run(folder: Path, *, passages: range, retriever: str = "bm25", **questions: Any) -> RunConfig:
    """A run whose corpus has passages of these numbers, and whose questions name those of NAMED."""
    import lance

    rows = [
        {"id": id, "question": f"{id}?", "answer": "x", "supporting_ids": NAMED[id]} for id in NAMED
    ]
    file = folder / "train.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = RunConfig.model_validate(
        {"run": {"dir": str(folder / "run")}, "questions": {"train": str(file), **questions}}
    )
    corpus = config.folder.corpus
    table = [{"id": f"p{n}", "title": "", "text": "x"} for n in passages]
    for row in table:  # a fragment each
        one = pa.Table.from_pylist([row], schema=PASSAGE_SCHEMA)
        lance.write_dataset(one, str(corpus), mode="append")
    write_corpus_record(corpus, CorpusRecord("1", len(table), {"type": retriever}))
    return config


def test_passages_that_the_corpus_lacks_are_counted_and_said(tmp_path: Path) -> None:
    config = run(tmp_path, passages=range(1, 7))
    questions = asked_questions(config, "train")
    assert {q.id: list(q.supporting_ids) for q in questions} == NAMED
    assert row_count_lines(config.folder.inputs, "questions.train")[-1] == (
        "questions.train: 3 of 6 gold passages are not in the corpus, as p8 of question q2, p9 of question "
        "q4, p7 of question q4; they count as not found"
    )
    counted = json.loads((config.folder.inputs / "questions.train.json").read_text())
    assert counted["gold_passages"]["named"] == 6
    assert counted["gold_passages"]["not_in_corpus"] == 3


def test_with_every_passage_nothing_is_said(tmp_path: Path) -> None:
    config = run(tmp_path, passages=range(1, 12))
    asked_questions(config, "train")
    assert len(row_count_lines(config.folder.inputs, "questions.train")) == 1


def test_a_corpus_with_none_of_them_is_refused(tmp_path: Path) -> None:
    config = run(tmp_path, passages=range(20, 22))
    with pytest.raises(
        InputError, match=r"questions\.train: .* none of their 6 gold .*p1 of question q1"
    ):
        asked_questions(config, "train")


def test_without_gold_passages_any_corpus_will_do(tmp_path: Path) -> None:
    config = run(tmp_path, passages=range(20, 22), gold_passages=False)
    assert {q.supporting_ids for q in asked_questions(config, "train")} == {()}
    assert len(row_count_lines(config.folder.inputs, "questions.train")) == 1


def test_where_nothing_is_searched_nothing_is_missing(tmp_path: Path) -> None:
    assert asked_questions(run(tmp_path, passages=range(20, 22), retriever="none"), "train")


def test_shares_by_hand() -> None:
    assert found_by_step([("a", "x"), ("x", "a"), ("b",)], ["a", "b", "b", "c"]) == (3, (1, 1, 2))
    chains = Counter({(2, (1, 2)): 1, (4, (0,)): 2, (0, (0, 0, 0)): 9, (3, ()): 5})
    # (1/2 + 0 + 0) / 3 and (1 + 0 + 0) / 3
    assert recall_by_step(chains) == [0.166667, 0.333333]
    assert recall_by_step(Counter()) == []
