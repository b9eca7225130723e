"""Questions from tables and folders, and the account of every row."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.data.questions import gather_questions, load_questions, read_questions
from steper_ray.data.row_counts import row_count_lines, skipped_file
from steper_ray.data.settings import QuestionColumns, QuestionsConfig
from steper_ray.errors import InputError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Question
from steper_ray.tasks.qa import exact_match
from tests.data.published_rows import (
    HOTPOTQA_FILE,
    MUSIQUE_FILE,
    TWO_WIKI_ROW,
    hotpotqa_rows,
    musique_rows,
)
from tests.data.test_tables import jsonl


def run_config(folder: Path, **questions: object) -> RunConfig:
    (folder / "run.yaml").write_text(json.dumps({"questions": questions}))
    return load_config(folder / "run.yaml", [f"run.dir={folder / 'run'}"])


def test_what_is_no_question_to_learn_from_is_skipped_and_written_down(tmp_path: Path) -> None:
    rows = musique_rows()
    twin = {**rows[0], "answerable": False}  # MuSiQue-Full: the pair shares its id
    test_row = {name: rows[1][name] for name in ("id", "paragraphs", "question")}
    file = jsonl(tmp_path, twin, *rows, {**test_row, "id": "t"})
    config = run_config(tmp_path, train=str(file))
    questions = load_questions(config.questions, "train", config.folder.inputs)
    assert questions == read_questions(str(MUSIQUE_FILE), "questions.train")
    skipped = skipped_file(config.folder.inputs, "questions.train")
    assert [json.loads(line) for line in skipped.read_text().splitlines()] == [
        {
            "file": str(file),
            "row": 1,
            "reason": "unanswerable",
            "id": twin["id"],
            "question": twin["question"],
        },
        {
            "file": str(file),
            "row": 12,
            "reason": "no_answer",
            "id": "t",
            "question": test_row["question"],
        },
    ]
    assert row_count_lines(config.folder.inputs, "questions.train", "questions.dev") == [
        "questions.train: MuSiQue, 12 read = 10 used + 2 skipped (1 no_answer, 1 unanswerable)",
        f"questions.train: skipped rows → {skipped}",
    ]
    written = json.loads((config.folder.root / "inputs" / "questions.train.json").read_text())
    assert (written["read"], written["used"], written["skipped"]) == (12, 10, 2)
    # Read again from a file without such rows: nothing stale stays.
    clean = run_config(tmp_path, train=str(MUSIQUE_FILE))
    load_questions(clean.questions, "train", clean.folder.inputs)
    assert not skipped.exists()


def test_a_test_set_without_answers_is_no_set_of_questions(tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if k != "answer"} for row in hotpotqa_rows()]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    config = run_config(tmp_path, test=str(tmp_path / "test.json"))
    with pytest.raises(InputError, match=r"no question in it to use \(40 no_answer\)"):
        load_questions(config.questions, "test", config.folder.inputs)
    assert len(skipped_file(config.folder.inputs, "questions.test").read_text().splitlines()) == 40


def test_a_table_with_and_without_the_optional_columns(tmp_path: Path) -> None:
    wanted = [
        Question("a", "q?", "x"),
        Question("b", "r?", "y", ("Y", "why"), ("p1", "p2"), 2),
    ]
    rows: list[dict[str, object]] = [
        {"id": "a", "question": "q?", "answer": "x"},
        {
            "id": "b",
            "question": "r?",
            "answer": "y",
            "answer_aliases": ["Y", "why"],
            "supporting_ids": ["p1", "p2"],
            "hops": 2,
        },
    ]
    file = jsonl(tmp_path, *rows)
    assert read_questions(str(file), "questions.train") == wanted
    pq.write_table(pa.Table.from_pylist(rows[::-1]), tmp_path / "q.parquet")
    assert read_questions(str(tmp_path / "q.parquet"), "questions.train") == wanted[::-1]
    (tmp_path / "q.csv").write_text(
        "id,question,answer,answer_aliases,supporting_ids,hops\n"
        'a,q?,x,,,\nb,r?,y,"[""Y"", ""why""]","[""p1"", ""p2""]",2\n'
    )
    assert read_questions(str(tmp_path / "q.csv"), "questions.train") == wanted


def test_a_blank_alias_is_no_gold_answer(tmp_path: Path) -> None:
    blank = ["", "  ", "the", "...", "The."]
    row = {"id": "a", "question": "q?", "answer": "x", "answer_aliases": [*blank, "X-Y"]}
    listed = {"id": "b", "question": "r?", "answer": ["y", *blank, "why"]}
    # The answer itself stays, as the official scripts have it: The The is a band.
    band = {"id": "c", "question": "s?", "answer": "The The", "answer_aliases": blank}
    file = jsonl(tmp_path, row, listed, band)
    x, y, z = read_questions(str(file), "questions.train")
    assert (x.gold_answers, y.gold_answers) == (("x", "X-Y"), ("y", "why"))
    assert z.gold_answers == ("The The",)
    assert exact_match("", x.gold_answers) == exact_match("the", y.gold_answers) == 0.0
    official = musique_rows()[0]
    jsonl(tmp_path, {**official, "answer_aliases": blank}, name="musique.jsonl")
    (question,) = read_questions(str(tmp_path / "musique.jsonl"), "questions.train")
    assert question.gold_answers == (official["answer"],)
    jsonl(tmp_path, {"Q_id": "Q7", "aliases": blank, "demonyms": ["No"]}, name="aliases.json")
    (tmp_path / "wiki.json").write_text(json.dumps([TWO_WIKI_ROW]))
    settings = QuestionsConfig(aliases=str(tmp_path / "aliases.json"))
    (question,) = read_questions(str(tmp_path / "wiki.json"), "questions.dev", settings)
    assert question.gold_answers == ("no", "No")


def test_columns_of_other_names(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"q": "q?", "a": ["x", "X"], "n": 7}, {"q": "r?", "a": ["y"], "n": 8})
    named = QuestionColumns(id="n", question="q", answer="a")
    settings = QuestionsConfig(columns=named)
    assert read_questions(str(file), "questions.train", settings) == [
        Question("7", "q?", "x", ("X",)),
        Question("8", "r?", "y"),
    ]
    settings = QuestionsConfig(columns=named.model_copy(update={"id": None}))
    made = [q.id for q in read_questions(str(file), "questions.train", settings)]
    jsonl(tmp_path, {"q": "r?", "a": "y"}, {"q": "q?", "a": "x"})
    again = [q.id for q in read_questions(str(file), "questions.train", settings)]
    assert made == again[::-1]
    assert len({*made}) == 2
    # Naming columns says that it is no published format.
    settings = QuestionsConfig(columns=QuestionColumns(id="_id"))
    found = gather_questions(str(HOTPOTQA_FILE), "questions.train", settings)
    assert found.accounts[0].format == "table of questions"
    assert all(question.hops is None for question in found.questions)
    config = run_config(
        tmp_path, train=str(file), columns={"id": None, "question": "q", "answer": "a"}
    )
    assert len(load_questions(config.questions, "train", config.folder.inputs)) == 2
    with pytest.raises(
        InputError, match=r"questions\.columns\.anser: unknown key; did you mean answer\?"
    ):
        run_config(tmp_path, columns={"anser": "a"})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"id": "b", "question": "q?"}, "question; name it in questions.columns.answer"),
        ({"id": "b", "question": "q?", "answer": True}, "row 2: column 'answer'"),
        ({"id": "b", "question": "\u200b", "answer": "x"}, "row 2: column 'question'"),
        ({"id": "b", "question": "q?", "answer": ["x", 5]}, "row 2: column 'answer'"),
        ({"id": "a", "question": "q?", "answer": "x"}, "row 2: column 'id': 'a' is already"),
        ({"id": "b", "question": "q?", "answer": "x", "hops": 0}, "row 2: column 'hops'"),
        ({"id": "b", "question": "q?", "answer": "x", "answer_aliases": "y"}, "must be a list"),
        ({"id": "b", "question": "q?", "answer": "x", "answer_aliases": "[y"}, "must be a list"),
        ({"id": "b", "question": "q?", "answer": "x", "answer_aliases": ["\ud800"]}, "surrogate"),
    ],
)
def test_a_bad_question_is_named_or_skipped(
    tmp_path: Path, row: dict[str, object], said: str
) -> None:
    file = jsonl(tmp_path, {"id": "a", "question": "q?", "answer": "x"}, row)
    with pytest.raises(InputError) as caught:
        read_questions(str(file), "questions.train")
    assert str(caught.value).startswith(f"{file}: ")
    assert said in str(caught.value)
    found = gather_questions(str(file), "questions.train", QuestionsConfig(bad_rows="skip"))
    assert [question.id for question in found.questions] == ["a"]
    (skipped,) = found.accounts[0].skipped
    assert (skipped.row, skipped.reason) == (2, "bad_row")
    assert said in skipped.error


def test_unreadable_rows_can_be_skipped_too(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id":\n' + MUSIQUE_FILE.read_text())
    config = run_config(tmp_path, train=str(tmp_path / "q.jsonl"), bad_rows="skip")
    assert len(load_questions(config.questions, "train", config.folder.inputs)) == 10
    (line,) = skipped_file(config.folder.inputs, "questions.train").read_text().splitlines()
    assert json.loads(line)["row"] == 1
    assert "not valid JSON" in json.loads(line)["error"]


def test_a_folder_of_several_formats(tmp_path: Path) -> None:
    folder = tmp_path / "questions"
    folder.mkdir()
    (folder / "hotpot.json").write_bytes(HOTPOTQA_FILE.read_bytes())
    (folder / "musique.jsonl.gz").write_bytes(gzip.compress(MUSIQUE_FILE.read_bytes()))
    (folder / "own.csv").write_text("id,question,answer\n1,q?,x\n")
    (folder / "LICENSE").write_text("x")
    (folder / "NOTES").write_text("x")
    config = run_config(tmp_path, dev=str(folder))
    assert len(load_questions(config.questions, "dev", config.folder.inputs)) == 51
    assert row_count_lines(config.folder.inputs, "questions.dev") == [
        "questions.dev: HotpotQA, 40 read = 40 used + 0 skipped",
        "questions.dev: MuSiQue, 10 read = 10 used + 0 skipped",
        "questions.dev: table of questions, 1 read = 1 used + 0 skipped",
        "questions.dev: 2 files of other kinds left out",
    ]
    empty = jsonl(tmp_path, name="empty.jsonl")
    with pytest.raises(InputError, match="no question in it"):
        read_questions(str(empty), "questions.train")
