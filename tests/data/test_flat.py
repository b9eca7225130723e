"""Tables of passages and questions under the names that others give their columns."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.data.flat import split_contents
from steper_ray.data.formats import passage_id
from steper_ray.data.passages import find_passages, plan_units, read_unit
from steper_ray.data.questions import gather_questions, read_questions
from steper_ray.data.row_counts import RowCounts
from steper_ray.data.settings import (
    CorpusConfig,
    PassageColumns,
    QuestionColumns,
    QuestionsConfig,
)
from steper_ray.errors import InputError
from steper_ray.schema import Passage, Question
from tests.data.published_rows import HOTPOTQA_FILE, MUSIQUE_FILE
from tests.data.test_tables import jsonl


def corpus(*files: Path, **settings: Any) -> tuple[list[Passage], list[RowCounts]]:
    config = CorpusConfig(passages=tuple(map(str, files)), **settings)
    accounts: list[RowCounts] = []
    units = plan_units(find_passages(config).sources, config)
    passages = [passage for unit in units for passage in read_unit(unit, config, accounts)]
    for account in accounts:
        account.check()
    return passages, accounts


@pytest.mark.parametrize(
    ("row", "format", "wanted"),
    [
        ({"id": 7, "text": "x"}, "table of passages", Passage("7", "", "x")),
        ({"id": "7", "title": None, "text": "x"}, "table of passages", Passage("7", "", "x")),
        ({"_id": "7", "title": "T", "text": "x"}, "BEIR", Passage("7", "T", "x")),
        ({"id": "7", "contents": '"T"\nx\ny'}, "FlashRAG", Passage("7", "T", "x\ny")),
        ({"pid": 7, "passage": "x"}, "MS MARCO", Passage("7", "", "x")),
        (
            {"title": "T", "text": "x", "idx": 0},  # HippoRAG
            "table of passages",
            Passage(passage_id("T", "x"), "T", "x"),
        ),
        (
            {"id": "7", "title": "T", "text": ["One.", " Two."]},  # HotpotQA's Wikipedia
            "table of passages",
            Passage("7", "T", "One. Two."),
        ),
    ],
)
def test_a_corpus_of_others(
    tmp_path: Path, row: dict[str, Any], format: str, wanted: Passage
) -> None:
    (passage,), (account,) = corpus(jsonl(tmp_path, row))
    assert (passage, account.format) == (wanted, format)


def test_the_title_of_contents_is_its_first_line() -> None:
    assert split_contents('"A. B."\ntext') == ("A. B.", "text")  # FlashRAG, Search-R1
    assert split_contents("Heat\ntext\nmore") == ("Heat", "text\nmore")  # Pyserini
    assert split_contents("One sentence.\nAnother.") == ("", "One sentence.\nAnother.")
    assert split_contents("x" * 151 + "\ny")[0] == ""
    assert split_contents("one line") == ("", "one line")


def test_columns_by_number_and_inside_objects(tmp_path: Path) -> None:
    file = tmp_path / "collection.tsv"  # MS MARCO's
    file.write_text("0\tsome text\n1\tmore\n")
    named = PassageColumns.model_validate({"id": 1, "text": 2, "title": None})
    assert corpus(file, columns=named)[0] == [
        Passage("0", "", "some text"),
        Passage("1", "", "more"),
    ]
    with pytest.raises(InputError, match=r"no column that is known: 0, some text; name them in"):
        corpus(file)
    row = {"text": "q?", "_id": "7", "metadata": {"answer": "x", "more": {"hops": 2.0}}}
    columns = QuestionColumns(
        id="_id", question="text", answer="metadata.answer", hops="metadata.more.hops"
    )
    settings = QuestionsConfig(columns=columns)
    wanted = [Question("7", "q?", "x", hops=2)]
    assert read_questions(str(jsonl(tmp_path, row)), "questions.train", settings) == wanted
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "q.parquet")
    assert read_questions(str(tmp_path / "q.parquet"), "questions.train", settings) == wanted
    # a column of that very name comes first
    flat = {"text": "q?", "_id": "7", "metadata.answer": "x", "metadata.more.hops": 2}
    assert read_questions(str(jsonl(tmp_path, flat)), "questions.train", settings) == wanted


@pytest.mark.parametrize(
    ("row", "format", "wanted"),
    [
        (
            {"id": "7", "question": "q?", "golden_answers": ["x", "y"], "metadata": {"type": "a"}},
            "FlashRAG",
            Question("7", "q?", "x", ("y",)),
        ),
        (
            {"id": "7", "question": "q?", "golden_answers": ["x"], "reward_model": {"style": "r"}},
            "FlashRAG",  # Search-R1
            Question("7", "q?", "x"),
        ),
        (
            {"_id": "7", "text": "q?", "metadata": {"answer": "x"}},
            "BEIR",
            Question("7", "q?", "x"),
        ),
        (
            {"id": 7, "question": "q?", "answers": ["x", "y"]},
            "DPR",
            Question("7", "q?", "x", ("y",)),
        ),
        (
            {"query_id": 7, "query": "q?", "answers": ["x"]},
            "MS MARCO",
            Question("7", "q?", "x"),
        ),
        (
            {"id": 7, "question": "q?", "answer": 1984},
            "table of questions",
            Question("7", "q?", "1984"),
        ),
    ],
)
def test_questions_of_others(
    tmp_path: Path, row: dict[str, Any], format: str, wanted: Question
) -> None:
    found = gather_questions(str(jsonl(tmp_path, row)), "questions.train")
    assert found.questions == [wanted]
    assert found.accounts[0].format == format


def test_a_question_without_an_answer_is_left_out_and_counted(tmp_path: Path) -> None:
    lines = ['""', '"\\u200b"', "null", "NaN", "[]", '[""]', '"x"']
    file = tmp_path / "q.jsonl"
    file.write_text(
        "".join(f'{{"id": {at}, "question": "q?", "answer": {v}}}\n' for at, v in enumerate(lines))
        + '{"id": 9, "question": "q?", "answer": "x", "answerable": false}\n'
    )
    found = gather_questions(str(file), "questions.train")
    assert found.questions == [Question("6", "q?", "x")]
    assert [row.reason for row in found.accounts[0].skipped] == [
        *["no_answer"] * 6,
        "unanswerable",
    ]


def test_what_pandas_writes(tmp_path: Path) -> None:
    wanted = [Question("1", "a?", "x", ("z",), hops=2), Question("2", "b?", "y")]
    text = ",id,question,answer,hops,answer_aliases\n0,1,a?,x,2.0,['z']\n1,2,b?,y,,\n"
    (tmp_path / "q.csv").write_text(text)
    assert read_questions(str(tmp_path / "q.csv"), "questions.train") == wanted
    rows = [
        {"id": 1, "question": "a?", "answer": "x", "hops": 2.0, "answer_aliases": ["z"]},
        {"id": 2, "question": "b?", "answer": "y", "hops": float("nan"), "answer_aliases": None},
    ]
    assert read_questions(str(jsonl(tmp_path, *rows)), "questions.train") == wanted
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "q.parquet")
    assert read_questions(str(tmp_path / "q.parquet"), "questions.train") == wanted


@pytest.mark.parametrize(
    ("cell", "answers"),
    [
        ("['Barack Obama' 'Obama']", ("Barack Obama", "Obama")),
        ("['a'\n 'b']", ("a", "b")),
        ("array(['a', 'b'], dtype=object)", ("a", "b")),
        ("['it\\'s' None]", ("it's",)),
        ("[nan]", ()),
        ("[]", ()),
        ("[sic]", ("[sic]",)),
        ("[0, 1]", ("[0, 1]",)),
        ("('Til) I Kissed You", ("('Til) I Kissed You",)),
    ],
)
def test_a_list_of_answers_as_numpy_writes_it(
    tmp_path: Path, cell: str, answers: tuple[str, ...]
) -> None:
    for column in ("answer", "golden_answers", "answers"):
        file = tmp_path / "q.csv"
        with file.open("w", newline="") as stream:
            csv.writer(stream).writerows([["id", "question", column], ["1", "q?", cell]])
        found = gather_questions(str(file), "questions.train")
        assert [question.gold_answers for question in found.questions] == [answers][: len(answers)]
        assert [row.reason for row in found.accounts[0].skipped] == ["no_answer"] * (not answers)


@pytest.mark.parametrize(
    "cell",
    [
        "['a' ... 'z']",
        '["a", "b"',
        "array(['a'",
        "[['a'] ['b']]",
        "['a', 1]",
        "{'text': ['a']}",
        "{}",
    ],
)
def test_a_text_that_is_part_of_a_list_is_no_answer(tmp_path: Path, cell: str) -> None:
    file = jsonl(
        tmp_path,
        {"id": 1, "question": "q?", "answer": "x"},
        {"id": 2, "question": "q?", "answer": cell},
    )
    with pytest.raises(InputError, match=r"row 2: column 'answer' must be text or a list of texts"):
        read_questions(str(file), "questions.train")
    settings = QuestionsConfig(bad_rows="skip")
    (account,) = gather_questions(str(file), "questions.train", settings).accounts
    assert (account.read, account.used, account.skipped[0].row) == (2, 1, 2)


def test_every_column_of_lists_takes_what_numpy_writes(tmp_path: Path) -> None:
    file = tmp_path / "q.csv"
    file.write_text(
        "id,question,answer,answer_aliases,supporting_ids\n1,q?,a,['b' 'c'],['p1' 'p2']\n"
    )
    assert read_questions(str(file), "questions.train") == [
        Question("1", "q?", "a", ("b", "c"), ("p1", "p2"))
    ]
    (tmp_path / "p.csv").write_text("id,title,text\n1,T,['One.' ' Two.']\n2,T,[sic]\n")
    assert corpus(tmp_path / "p.csv")[0] == [
        Passage("1", "T", "One. Two."),
        Passage("2", "T", "[sic]"),
    ]


def test_a_corpus_of_titles_with_sentences(tmp_path: Path) -> None:
    file = tmp_path / "hipporag.json"
    titles = {
        "Owl": ["Owls hunt.", " They see."],
        "text": ["A text is."],
        "question": ["x"],
        "Cat": [],
    }
    file.write_text(json.dumps(titles))
    passages, (account,) = corpus(file)
    assert [(passage.title, passage.text) for passage in passages] == [
        ("Owl", "Owls hunt. They see."),
        ("text", "A text is."),
        ("question", "x"),
    ]
    assert (account.read, account.used) == (4, 4)
    assert account.notes == {"passages": 3, "passages without text, left out": 1}


def test_an_answer_of_bytes_that_are_no_utf8_is_a_broken_row(tmp_path: Path) -> None:
    texts = ["Orléans".encode(), "Orléans".encode("latin-1")]
    for answers in (texts, [[text] for text in texts]):
        table = pa.table({"id": ["1", "2"], "question": ["q?", "q?"], "answer": answers})
        pq.write_table(table, tmp_path / "q.parquet")
        with pytest.raises(
            InputError, match=r"row 2: column 'answer' holds bytes that are no UTF-8"
        ):
            read_questions(str(tmp_path / "q.parquet"), "questions.train")
        settings = QuestionsConfig(bad_rows="skip")
        assert read_questions(str(tmp_path / "q.parquet"), "questions.train", settings) == [
            Question("1", "q?", "Orléans")
        ]


def test_an_id_that_the_first_row_lacks_is_no_id_less(tmp_path: Path) -> None:
    # Spark leaves out what is null: the first row is broken, the table has ids
    questions = [{"question": "a?", "answer": "x"}, {"id": "2", "question": "b?", "answer": "y"}]
    with pytest.raises(InputError, match=r"row 1: no column 'id'; the row has answer, question"):
        read_questions(str(jsonl(tmp_path, *questions)), "questions.train")
    settings = QuestionsConfig(bad_rows="skip")
    found = gather_questions(str(tmp_path / "rows.jsonl"), "questions.train", settings)
    assert found.questions == [Question("2", "b?", "y")]
    for id in ("id", "_id"):
        passages = [{"text": "x"}, {id: "2", "text": "y"}]
        made, (account,) = corpus(jsonl(tmp_path, *passages), bad_rows="skip")
        assert made == [Passage("2", "", "y")]
        assert (account.read, account.used, account.skipped[0].row) == (2, 1, 1)


def test_an_id_that_comes_late_is_not_lost_in_silence(tmp_path: Path) -> None:
    said = (
        "row 21: column 'id' has a value here and is missing in the first rows; give every row one"
    )
    first = [{"question": f"{at}?", "answer": "x"} for at in range(20)]
    file = jsonl(tmp_path, *first, {"id": "q", "question": "b?", "answer": "y"})
    with pytest.raises(InputError) as caught:
        read_questions(str(file), "questions.train")
    assert f"{said}, or set questions.columns.id: null" in str(caught.value)
    named = QuestionsConfig(columns=QuestionColumns(id=None))
    assert len(read_questions(str(file), "questions.train", named)) == 21
    file = jsonl(tmp_path, *({"text": str(at)} for at in range(20)), {"_id": "p", "text": "y"})
    with pytest.raises(InputError) as caught:
        corpus(file)
    assert said.replace("'id'", "'_id'") in str(caught.value)
    assert len(corpus(file, columns=PassageColumns(id=None))[0]) == 21


@pytest.mark.parametrize("hops", [2.5, "two", True, 0, -1, 2**40, float("inf")])
def test_hops_that_are_no_number_of_facts(tmp_path: Path, hops: object) -> None:
    file = jsonl(tmp_path, {"id": 1, "question": "q?", "answer": "x", "hops": hops})
    with pytest.raises(InputError, match=r"row 1: column 'hops' must be a positive integer"):
        read_questions(str(file), "questions.train")


def test_without_ids_rows_that_say_the_same_are_one(tmp_path: Path) -> None:
    row = {"question": "q?", "answer": "x"}
    found = gather_questions(
        str(jsonl(tmp_path, row, row, {**row, "answer": "y"})), "questions.dev"
    )
    (account,) = found.accounts
    assert len({question.id for question in found.questions}) == 2
    assert [(skipped.row, skipped.reason) for skipped in account.skipped] == [(2, "duplicate")]
    passages, (one, other) = corpus(
        jsonl(tmp_path, {"text": "x"}, {"text": "x"}),
        jsonl(tmp_path, {"text": "x"}, name="b.jsonl"),
    )
    assert passages == [Passage(passage_id("", "x"), "", "x")]
    assert (one.notes, other.notes) == (
        {"passages": 1, "passages met before": 1},
        {"passages met before": 1},
    )


def test_the_gold_passages_of_official_questions_are_in_a_corpus_built_apart(
    tmp_path: Path,
) -> None:
    contexts, _ = corpus(HOTPOTQA_FILE, MUSIQUE_FILE)
    rows = [{"title": passage.title, "text": passage.text} for passage in contexts]
    apart = {
        "lines.jsonl": "".join(json.dumps(row) + "\n" for row in rows),
        "hipporag.json": json.dumps([{**row, "idx": at} for at, row in enumerate(rows)]),
        "sheet.tsv": "text\ttitle\n" + "".join(f"{r['text']}\t{r['title']}\n" for r in rows),
        "contents.jsonl": "".join(
            json.dumps({"id": at, "contents": f'"{row["title"]}"\n{row["text"]}'}) + "\n"
            for at, row in enumerate(rows)
        ),
    }
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    gold = [
        id
        for file in (HOTPOTQA_FILE, MUSIQUE_FILE)
        for question in read_questions(str(file), "questions.train")
        for id in question.supporting_ids
    ]
    assert len(gold) == 40 * 2 + 25
    for name, text in apart.items():
        (tmp_path / name).write_text(text)
        columns = PassageColumns()
        if name == "contents.jsonl":  # its ids are not ours
            columns = PassageColumns(id=None, title=None, text="contents")
        passages, _ = corpus(tmp_path / name, columns=columns)
        ids = {passage.id for passage in passages}
        assert sum(id in ids for id in gold) == len(gold), name
    ids = {passage.id for passage in corpus(tmp_path / "rows.parquet")[0]}
    assert set(gold) <= ids
