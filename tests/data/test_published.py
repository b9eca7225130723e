"""HotpotQA, 2WikiMultihopQA and MuSiQue as published: recognised, read, and broken rows named."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.data.formats import join_sentences, passage_id
from steper_ray.data.multihop import HOTPOTQA, MUSIQUE, TWO_WIKI
from steper_ray.data.published import recognise
from steper_ray.data.questions import gather_questions, read_questions
from steper_ray.data.settings import QuestionsConfig
from steper_ray.errors import InputError
from steper_ray.schema import Question
from tests.data.published_rows import (
    HOTPOTQA_FILE,
    MUSIQUE_FILE,
    TWO_WIKI_ROW,
    as_on_the_hub,
    hotpotqa_rows,
    musique_rows,
)
from tests.data.test_tables import jsonl


def test_hotpotqa_as_published() -> None:
    found = gather_questions(str(HOTPOTQA_FILE), "questions.train")
    (account,) = found.accounts
    assert (account.format, account.read, account.used) == ("HotpotQA", 40, 40)
    assert not account.skipped
    assert len(found.questions) == 40
    for question, row in zip(found.questions, hotpotqa_rows(), strict=True):
        assert (question.id, question.question) == (row["_id"], row["question"])
        assert question.gold_answers == (row["answer"],)
        assert question.hops == 2
        texts = {title: "".join(sentences).strip() for title, sentences in row["context"]}
        titles = dict.fromkeys(title for title, _ in row["supporting_facts"])
        assert question.supporting_ids == tuple(passage_id(title, texts[title]) for title in titles)


def test_musique_as_published() -> None:
    found = gather_questions(str(MUSIQUE_FILE), "questions.train")
    (account,) = found.accounts
    assert (account.format, account.read, account.used) == ("MuSiQue", 10, 10)
    # The number of hops stands in MuSiQue's ids.
    assert [q.hops for q in found.questions] == [int(q.id[0]) for q in found.questions]
    assert Counter(q.hops for q in found.questions) == {2: 6, 3: 3, 4: 1}
    by_id = {question.id: question for question in found.questions}
    assert by_id["2hop__468258_495107"].gold_answers == ("Norway", "NO", "NOR", "no")
    assert by_id["2hop__6584_6587"].gold_answers == ("the Anglican Communion",)
    # In the order of the decomposition, not of the paragraphs: of this one 15, 14, 6, 16.
    row = next(row for row in musique_rows() if row["id"].startswith("4hop1__709382"))
    paragraphs = [row["paragraphs"][at] for at in (15, 14, 6, 16)]
    assert by_id[row["id"]].supporting_ids == tuple(
        passage_id(p["title"], p["paragraph_text"]) for p in paragraphs
    )
    for row in musique_rows():
        supporting = {
            passage_id(p["title"], p["paragraph_text"])
            for p in row["paragraphs"]
            if p["is_supporting"]
        }
        assert set(by_id[row["id"]].supporting_ids) == supporting


def test_2wikimultihopqa_with_the_aliases_of_its_answers(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text(json.dumps([TWO_WIKI_ROW]))
    jsonl(
        tmp_path,
        {"Q_id": "Q7", "aliases": ["No", "no"], "demonyms": ["nope"]},
        {"Q_id": "Q8", "aliases": ["x"], "demonyms": []},
        name="id_aliases.json",
    )
    settings = QuestionsConfig(aliases=str(tmp_path / "id_aliases.json"))
    found = gather_questions(str(tmp_path), "questions.dev", settings)
    text = "Film A is a film. It was directed by X."
    assert found.questions == [
        Question(
            "w1",
            "Are both directors from the same country?",
            "no",
            ("No", "nope"),
            (
                passage_id("Film A", text),
                passage_id("Film B", "Film B is a film by Y."),
                passage_id("X", "X is French."),
                passage_id("Y", "Y is Dutch."),
            ),
            4,
            "bridge_comparison",
        )
    ]
    assert found.accounts[0].format == "2WikiMultihopQA"
    assert found.skipped_files == ["id_aliases.json (see questions.aliases)"]
    assert read_questions(str(tmp_path / "dev.json"), "questions.dev")[0].answer_aliases == ()


def test_sentences_are_joined_as_their_dataset_cut_them() -> None:
    assert join_sentences(["One.", " Two.", '"Three".']) == 'One. Two."Three".'  # HotpotQA
    assert join_sentences(["One.", "Two."]) == "One. Two."  # 2WikiMultihopQA
    assert join_sentences([" One. "]) == "One."
    assert join_sentences([]) == ""


def test_fullwiki_contexts_may_lack_the_supporting_passages(tmp_path: Path) -> None:
    rows = hotpotqa_rows()[:3]
    gold = rows[0]["supporting_facts"][0][0]
    rows[0]["context"] = [pair for pair in rows[0]["context"] if pair[0] != gold]
    rows[1]["context"] = []
    (tmp_path / "fullwiki.json").write_text(json.dumps(rows))
    found = gather_questions(str(tmp_path / "fullwiki.json"), "questions.dev")
    assert [len(q.supporting_ids) for q in found.questions] == [0, 0, 2]
    assert [q.hops for q in found.questions] == [2, 2, 2]
    assert list(found.accounts[0].notes.values()) == [2]


def test_the_hubs_form_gives_the_same_questions(tmp_path: Path) -> None:
    rows = [as_on_the_hub(row) for row in hotpotqa_rows()]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "hub.parquet")
    raw = read_questions(str(HOTPOTQA_FILE), "questions.train")
    assert read_questions(str(tmp_path / "hub.parquet"), "questions.train") == raw
    pq.write_table(pa.Table.from_pylist(musique_rows()), tmp_path / "musique.parquet")
    raw = read_questions(str(MUSIQUE_FILE), "questions.train")
    assert read_questions(str(tmp_path / "musique.parquet"), "questions.train") == raw


@pytest.mark.parametrize(
    ("row", "format"),
    [
        (TWO_WIKI_ROW, TWO_WIKI),
        (hotpotqa_rows()[0], HOTPOTQA),
        (musique_rows()[0], MUSIQUE),
        ({"_id": "1", "question": "q", "context": []}, HOTPOTQA),
        ({"id": "1", "question": "q", "answer": "a"}, None),
        ({"id": "1", "question": "q", "answer": "a", "context": "one text"}, None),
        ({"id": "1", "question": "q", "answer": "a", "context": ["one", "two"]}, None),
        ({"id": "1", "question": "q", "answer": "a", "context": []}, None),
        ({"id": "1", "question": "q", "paragraphs": ["one"]}, None),
    ],
)
def test_a_format_is_recognised_by_its_columns_and_their_nesting(
    row: dict[str, Any], format: object
) -> None:
    assert recognise(row) is format


BROKEN: Final[list[tuple[Callable[[dict[str, Any]], object], str]]] = [
    (lambda row: row.pop("question"), "no column 'question'"),
    (lambda row: row.pop("_id"), "no column 'id'"),
    (lambda row: row.update(answer=True), "column 'answer' must be text"),
    (lambda row: row.update(context="x"), "column 'context' must be a list of [title, [sentence"),
    (lambda row: row["context"].append(["T", "x"]), "column 'context' must be a list"),
    (lambda row: row["context"].append(["T", ["\ud800"]]), "column 'context' must be a list"),
    (lambda row: row.update(supporting_facts=[["T"]]), "column 'supporting_facts' must be"),
]


@pytest.mark.parametrize(("breaks", "said"), BROKEN)
def test_a_broken_row_of_hotpotqa_is_named(
    tmp_path: Path, breaks: Callable[[dict[str, Any]], object], said: str
) -> None:
    rows = hotpotqa_rows()[:3]
    breaks(rows[1])
    file = tmp_path / "train.json"
    file.write_text(json.dumps(rows))
    with pytest.raises(InputError) as caught:
        read_questions(str(file), "questions.train")
    assert str(caught.value).startswith(f"{file}: row 2: ")
    assert said in str(caught.value)
    assert str(caught.value).endswith("; or set questions.bad_rows: skip")
    found = gather_questions(str(file), "questions.train", QuestionsConfig(bad_rows="skip"))
    assert len(found.questions) == 2
    (account,) = found.accounts
    assert (account.read, account.used, account.skipped[0].row) == (3, 2, 2)
    assert said in account.skipped[0].error


@pytest.mark.parametrize(
    ("breaks", "said"),
    [
        (lambda row: row.update(paragraphs=5), "column 'paragraphs' must be a list of objects"),
        (lambda row: row["paragraphs"][3].update(title=7), "'paragraphs[3].title' must be text"),
        (lambda row: row["paragraphs"][3].pop("idx"), "'paragraphs[3].idx' must be an integer"),
        (lambda row: row.update(question_decomposition=None), "'question_decomposition' must be"),
        (lambda row: row.update(answer_aliases="x"), "'answer_aliases' must be a list of texts"),
    ],
)
def test_a_broken_row_of_musique_is_named(
    tmp_path: Path, breaks: Callable[[dict[str, Any]], object], said: str
) -> None:
    rows = musique_rows()[:2]
    breaks(rows[1])
    with pytest.raises(InputError) as caught:
        read_questions(str(jsonl(tmp_path, *rows)), "questions.train")
    assert "row 2: " in str(caught.value)
    assert said in str(caught.value)


def test_kinds_of_questions_are_those_of_the_data_sets() -> None:
    def kinds(file: Path) -> Counter[str | None]:
        return Counter(one.type for one in gather_questions(str(file), "questions.dev").questions)

    assert kinds(HOTPOTQA_FILE) == {"bridge": 32, "comparison": 8}
    assert kinds(MUSIQUE_FILE) == {"2hop": 6, "3hop1": 3, "4hop1": 1}
