"""SQuAD, MS MARCO, DPR and IRCoT: rows written by hand in the form that their files have."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pytest

from steper_ray.data.formats import passage_id
from steper_ray.data.questions import gather_questions
from steper_ray.data.settings import QuestionsConfig
from steper_ray.errors import InputError
from steper_ray.schema import Passage, Question
from tests.data.published_rows import TWO_WIKI_ROW, as_on_the_hub, hotpotqa_rows, musique_rows
from tests.data.test_flat import corpus
from tests.data.test_tables import jsonl

SQUAD_ROW: Final = {
    "id": "s1",
    "title": "Owl",
    "context": "Owls see at night.",
    "question": "When do owls see?",
    "answers": {"text": ["at night", "night", "night"], "answer_start": [9, 12, 12]},
}

MS_MARCO_ROW: Final = {
    "query_id": 5,
    "query": "when do owls see",
    "answers": ["At night."],
    "passages": {
        "is_selected": [0, 1],
        "passage_text": ["Hens peck.", "Owls see at night."],
        "url": ["a", "b"],
    },
}

DPR_ROW: Final = {
    "dataset": "nq",
    "question": "when do owls see",
    "answers": ["night"],
    "positive_ctxs": [{"title": "Owl", "text": "Owls see at night.", "passage_id": "3"}],
    "negative_ctxs": [],
    "hard_negative_ctxs": [{"title": "Hen", "text": "Hens peck."}],
}

IRCOT_ROW: Final[dict[str, Any]] = {
    "dataset": "hotpotqa",
    "question_id": "i1",
    "question_text": "When do owls see?",
    "answers_objects": [
        {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": ["at night"]},
        {"number": "2", "date": {}, "spans": []},
        {"number": "", "date": {"day": "3", "month": "May", "year": "1990"}, "spans": []},
    ],
    "contexts": [
        {"idx": 0, "title": "Hen", "paragraph_text": "Hens peck.", "is_supporting": False},
        {"idx": 1, "title": "Owl", "paragraph_text": "Owls see at night.", "is_supporting": True},
    ],
}

MUSIQUE_ROW: Final[dict[str, Any]] = {
    "id": "2hop__1_2",
    "question": "When do owls see?",
    "answer": "night",
    "answerable": True,
    "paragraphs": [
        {"idx": 0, "title": "Owl", "paragraph_text": "Owls see at night.", "is_supporting": True}
    ],
    "question_decomposition": [{"id": 1, "paragraph_support_idx": 0}],
}

OWL: Final = passage_id("Owl", "Owls see at night.")
HEN: Final = passage_id("Hen", "Hens peck.")


@pytest.mark.parametrize(
    ("row", "format", "question", "passages"),
    [
        (
            SQUAD_ROW,
            "SQuAD",
            Question("s1", "When do owls see?", "at night", ("night",), (OWL,), 1),
            [OWL],
        ),
        (
            MS_MARCO_ROW,
            "MS MARCO",
            Question(
                *("5", "when do owls see", "At night.", ()),
                (passage_id("", "Owls see at night."),),
                1,
            ),
            [passage_id("", "Hens peck."), passage_id("", "Owls see at night.")],
        ),
        (
            {**DPR_ROW, "id": "d1"},
            "DPR",
            Question("d1", "when do owls see", "night"),
            [OWL, HEN],
        ),
        (
            IRCOT_ROW,
            "IRCoT",
            Question("i1", "When do owls see?", "at night", ("2", "3 May 1990"), (OWL,), 1),
            [HEN, OWL],
        ),
    ],
)
def test_questions_and_passages(
    tmp_path: Path, row: dict[str, Any], format: str, question: Question, passages: list[str]
) -> None:
    file = jsonl(tmp_path, row)
    found = gather_questions(str(file), "questions.train")
    assert found.questions == [question]
    assert found.accounts[0].format == format
    made, (account,) = corpus(file)
    assert [passage.id for passage in made] == passages
    assert account.format == format


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**SQUAD_ROW, "answers": {"text": [], "answer_start": []}}, "unanswerable"),
        ({**MS_MARCO_ROW, "answers": ["No Answer Present."]}, "unanswerable"),
        ({**MS_MARCO_ROW, "answers": []}, "no_answer"),
        ({**DPR_ROW, "answers": []}, "no_answer"),
        ({**DPR_ROW, "answers": [], "positive_ctxs": []}, "no_answer"),
        ({**IRCOT_ROW, "answers_objects": []}, "no_answer"),
        ({**musique_rows()[0], "answerable": "False"}, "unanswerable"),
        ({**hotpotqa_rows()[0], "answer": float("nan")}, "no_answer"),
    ],
)
def test_a_row_without_an_answer(tmp_path: Path, row: dict[str, Any], reason: str) -> None:
    found = gather_questions(str(jsonl(tmp_path, row)), "questions.train")
    assert not found.questions
    assert [skipped.reason for skipped in found.accounts[0].skipped] == [reason]


def test_other_nestings_give_the_same_question(tmp_path: Path) -> None:
    def read(row: dict[str, Any]) -> Question:
        (question,) = gather_questions(str(jsonl(tmp_path, row)), "questions.dev").questions
        return question

    raw = read(dict(TWO_WIKI_ROW))
    texts = {name: json.dumps(TWO_WIKI_ROW[name]) for name in ("context", "supporting_facts")}
    assert read({**TWO_WIKI_ROW, **texts, "evidences": "[]"}) == raw
    hotpot = hotpotqa_rows()[0]
    hub = as_on_the_hub(hotpot)
    metadata = {name: hub.pop(name) for name in ("context", "supporting_facts", "type", "level")}
    flashrag = {**hub, "golden_answers": [hub.pop("answer")], "metadata": metadata}
    assert read(flashrag) == read(hotpot)
    musique = musique_rows()[0]
    by_text = [{**p, "idx": str(p["idx"])} for p in musique["paragraphs"]]
    assert read({**musique, "paragraphs": by_text}) == read(musique)
    without = {k: v for k, v in musique.items() if k != "question_decomposition"}
    assert set(read(without).supporting_ids) == set(read(musique).supporting_ids)
    assert read(without).hops == read(musique).hops


def as_text(value: object) -> str:
    """A cell of Parquet as pandas writes it into CSV: objects with numpy's arrays in them."""
    column = pa.array([value]).to_pandas()
    return str(column[0])


@pytest.mark.parametrize("spell", [as_text, repr, json.dumps])
def test_what_stands_in_a_csv_as_text_is_read_as_what_it_spells(
    tmp_path: Path, spell: Callable[[object], str]
) -> None:
    hotpot, musique = as_on_the_hub(hotpotqa_rows()[0]), musique_rows()[0]
    flashrag = {**hotpot, "golden_answers": [hotpot["answer"]]}
    flashrag["metadata"] = {name: flashrag.pop(name) for name in ("context", "supporting_facts")}
    for row in (hotpot, flashrag, SQUAD_ROW, MS_MARCO_ROW, DPR_ROW, IRCOT_ROW, musique):
        raw = jsonl(tmp_path, row)
        cells = {
            name: spell(value) if isinstance(value, list | dict) else value
            for name, value in row.items()
        }
        written = tmp_path / "row.csv"
        with written.open("w", newline="") as stream:
            csv.writer(stream).writerows([cells.keys(), cells.values()])
        for file in (written, jsonl(tmp_path, cells, name="text.jsonl")):
            found, wanted = (gather_questions(str(f), "questions.train") for f in (file, raw))
            assert found.questions == wanted.questions
            assert found.accounts[0].format == wanted.accounts[0].format
            assert corpus(file)[0] == corpus(raw)[0]


def test_nested_columns_that_cannot_be_read_are_not_dropped(tmp_path: Path) -> None:
    row = {**as_on_the_hub(hotpotqa_rows()[0]), "context": "{'title': ['A' ... 'Z']}"}
    for read in (lambda file: gather_questions(str(file), "questions.train"), corpus):
        with pytest.raises(InputError, match=r"column 'context' begins as a list or an object and"):
            read(jsonl(tmp_path, row))


@pytest.mark.parametrize("title", [None, "", " "])
def test_a_context_may_have_no_title(tmp_path: Path, title: str | None) -> None:
    text = "Owls see at night."
    contexts = [
        {**DPR_ROW, "positive_ctxs": [{"title": title, "text": text}]},
        {**MUSIQUE_ROW, "paragraphs": [{**MUSIQUE_ROW["paragraphs"][0], "title": title}]},
        {**IRCOT_ROW, "contexts": [{**IRCOT_ROW["contexts"][1], "title": title}]},
        {**SQUAD_ROW, "title": title},
        {**hotpotqa_rows()[0], "context": [[title, [text]]]},
    ]
    for row in contexts:
        passages, _ = corpus(jsonl(tmp_path, row))
        assert passages[0] == Passage(passage_id("", text), "", text)
        assert gather_questions(str(tmp_path / "rows.jsonl"), "questions.train").questions
    without = {**DPR_ROW, "positive_ctxs": [{"text": text}]}
    assert corpus(jsonl(tmp_path, without))[0][0].title == ""


def test_a_first_row_without_contexts_shows_the_format_all_the_same(tmp_path: Path) -> None:
    bare = {"question": "why?", "answers": ["x"], "positive_ctxs": []}
    for rows in ([bare], [bare, DPR_ROW], [{k: bare[k] for k in ("question", "answers")}, DPR_ROW]):
        (account,) = gather_questions(str(jsonl(tmp_path, *rows)), "questions.train").accounts
        assert (account.format, account.used) == ("DPR", len(rows))


def test_marks_are_read_as_what_they_say(tmp_path: Path) -> None:
    musique = {**MUSIQUE_ROW}
    del musique["question_decomposition"]
    (paragraph,) = musique["paragraphs"]
    for mark, count in [("0.0", 0), ("F", 0), (0, 0), (None, 0), ("True", 1), (1.0, 1), ("y", 1)]:
        rows = [
            {**musique, "paragraphs": [{**paragraph, "is_supporting": mark}]},
            {**MS_MARCO_ROW, "passages": [{"passage_text": "x", "is_selected": mark}]},
        ]
        for row in rows:
            file = jsonl(tmp_path, row)
            (question,) = gather_questions(str(file), "questions.train").questions
            assert len(question.supporting_ids) == count, (mark, row)
    row = {**MS_MARCO_ROW, "passages": [{"passage_text": "x", "is_selected": "perhaps"}]}
    with pytest.raises(
        InputError, match=r"row 1: an 'is_selected' must be true or false, got 'perh"
    ):
        gather_questions(str(jsonl(tmp_path, row)), "questions.train")


def test_squad_s_own_file(tmp_path: Path) -> None:
    asked = {"question": "When do owls see?", "id": "s1"}
    answers = [{"text": "at night", "answer_start": 9}, {"text": "night", "answer_start": 12}]
    impossible = {"question": "Why?", "id": "s2", "answers": [], "is_impossible": True}
    broken = {"question": "Who?", "id": "s3", "answers": ["x"]}
    paragraphs = [
        {"context": "Owls see at night.", "qas": [{**asked, "answers": answers}, impossible]},
        {"context": "Owls hunt.", "qas": []},
        {"context": "Owls sleep.", "qas": [broken]},
    ]
    content = {
        "version": "v2.0",
        "data": [{"title": "Owl", "paragraphs": paragraphs}, {"title": 5}],
    }
    file = tmp_path / "train-v2.0.json"
    file.write_text(json.dumps(content))
    settings = QuestionsConfig(bad_rows="skip")
    found = gather_questions(str(file), "questions.train", settings)
    assert found.questions == [
        Question("s1", "When do owls see?", "at night", ("night",), (OWL,), 1)
    ]
    (account,) = found.accounts
    account.check()
    assert (account.format, account.read) == ("SQuAD", 5)
    assert [(row.row, row.reason) for row in account.skipped] == [
        (2, "unanswerable"),
        (3, "no_answer"),
        (4, "bad_row"),
        (5, "bad_row"),
    ]
    passages, (account,) = corpus(file, bad_rows="skip")
    assert [passage.text for passage in passages] == [
        "Owls see at night.",
        "Owls hunt.",
        "Owls sleep.",
    ]
    assert (account.read, account.used) == (5, 4)


def test_a_title_with_an_entity_is_the_title_without(tmp_path: Path) -> None:
    row = {
        **hotpotqa_rows()[0],
        "supporting_facts": [["Tom & Jerry", 0]],
        "context": [["Tom &amp; Jerry", ["A."]]],
    }
    (question,) = gather_questions(str(jsonl(tmp_path, row)), "questions.dev").questions
    ((passage,), _) = corpus(tmp_path / "rows.jsonl")
    assert passage == Passage(passage_id("Tom &amp; Jerry", "A."), "Tom &amp; Jerry", "A.")
    assert question.supporting_ids == (passage.id,)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {**MS_MARCO_ROW, "passages": {"passage_text": ["a"], "is_selected": []}},
            "row 1: column 'passages.is_selected' must be a list as long as the passages",
        ),
        (
            {**hotpotqa_rows()[0], "context": [["T", ["x."], 0]]},
            "row 1: column 'context' must be a list of [title, [sentence",
        ),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        gather_questions(str(jsonl(tmp_path, row)), "questions.train")
    assert said in str(caught.value)
