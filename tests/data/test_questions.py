"""Questions from the official files and from tables, and the account of every row."""

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.data.published import (
    HOTPOTQA,
    MUSIQUE,
    TWO_WIKI,
    join_sentences,
    passage_id,
    recognise,
)
from steper_ray.data.questions import gather_questions, load_questions, read_questions
from steper_ray.data.row_counts import row_count_lines, skipped_file
from steper_ray.data.settings import QuestionColumns, QuestionsConfig
from steper_ray.errors import InputError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Question
from steper_ray.tasks.qa import exact_match
from tests.conftest import ROOT
from tests.data.test_tables import jsonl

DATA: Final = ROOT / "tests" / "data"
HOTPOTQA_FILE: Final = DATA / "hotpotqa_distractor_40.json"
MUSIQUE_FILE: Final = DATA / "musique_ans_10.jsonl"

TWO_WIKI_ROW: Final = {
    # Written by hand in the form that the dataset's README describes.
    "_id": "w1",
    "type": "bridge_comparison",
    "question": "Are both directors from the same country?",
    "context": [
        ["Film A", ["Film A is a film.", "It was directed by X."]],
        ["X", ["X is French."]],
        ["Film B", ["Film B is a film by Y."]],
        ["Y", ["Y is Dutch."]],
        ["Noise", [""]],
    ],
    "entity_ids": "Q1_Q2",
    "supporting_facts": [["Film A", 1], ["Film B", 0], ["X", 0], ["Y", 0]],
    "evidences": [["Film A", "director", "X"], ["Film B", "director", "Y"]],
    "evidences_id": [],
    "answer": "no",
    "answer_id": "Q7",
}


def hotpotqa_rows() -> list[dict[str, Any]]:
    return list(json.loads(HOTPOTQA_FILE.read_text()))


def musique_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in MUSIQUE_FILE.read_text().splitlines()]


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
        )
    ]
    assert found.accounts[0].format == "2WikiMultihopQA"
    assert found.left_out == ["id_aliases.json (see questions.aliases)"]
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


def as_on_the_hub(row: dict[str, Any]) -> dict[str, Any]:
    """HotpotQA as hotpotqa/hotpot_qa has it."""
    titles, sentences = zip(*row["context"], strict=True)
    facts = row["supporting_facts"]
    return {
        **{name: row[name] for name in ("question", "answer", "type", "level")},
        "id": row["_id"],
        "context": {"title": list(titles), "sentences": [list(s) for s in sentences]},
        "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]},
    }


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


BROKEN: Final[list[tuple[Callable[[dict[str, Any]], object], str]]] = [
    (lambda row: row.pop("question"), "no column 'question'"),
    (lambda row: row.pop("_id"), "no column 'id'"),
    (lambda row: row.update(answer=5), "column 'answer' must be text"),
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
        (lambda row: row["paragraphs"][3].pop("title"), "'paragraphs[3].title' must be text"),
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
        ({"id": "b", "question": "q?", "answer": ""}, "row 2: column 'answer'"),
        ({"id": "b", "question": "q?", "answer": []}, "row 2: column 'answer'"),
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


@pytest.fixture
def datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What HF_DATASETS_CACHE and HF_HUB_OFFLINE=1 set before the first import."""
    import datasets
    import huggingface_hub.constants

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def test_a_dataset_of_the_hub(tmp_path: Path, datasets_cache: None) -> None:
    import datasets

    rows = [as_on_the_hub(row) for row in hotpotqa_rows()]
    repository = tmp_path / "hotpot_qa"
    for config, split, part in [
        ("distractor", "train", rows[:30]),
        ("distractor", "validation", rows[30:]),
        ("fullwiki", "train", rows[:5]),
    ]:
        (repository / config).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(part), repository / config / f"{split}.parquet")
    (repository / "README.md").write_text(
        "---\nconfigs:\n"
        "- config_name: distractor\n  data_files:\n"
        "  - {split: train, path: distractor/train.parquet}\n"
        "  - {split: validation, path: distractor/validation.parquet}\n"
        "- config_name: fullwiki\n  data_files:\n"
        "  - {split: train, path: fullwiki/train.parquet}\n"
        "---\n"
    )
    raw = read_questions(str(HOTPOTQA_FILE), "questions.train")
    name = f"hf:{repository}"
    assert read_questions(f"{name}:distractor:train", "questions.train") == raw[:30]
    assert read_questions(f"{name}:distractor:validation", "questions.dev") == raw[30:]
    assert read_questions(f"{name}:fullwiki", "questions.train") == raw[:5]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    assert read_questions(f"hf:{tmp_path / 'saved'}", "questions.train") == raw
    for address, said in [
        (f"{name}:distractor", "name one of its splits (train, validation), as"),
        (f"{name}:distractor:test", "name one of its splits (train, validation), as"),
        (name, "cannot be loaded (Config name is missing."),
        (f"{name}:none", "cannot be loaded"),
        (f"hf:{tmp_path}/none", "cannot be loaded"),
        ("hf:nobody/nothing", "nothing: no"),  # such repository, or not on this machine
        ("hf:", "expected hf:owner/name"),
        ("hf:a:b:c:d", "expected hf:owner/name"),
    ]:
        with pytest.raises(InputError) as caught:
            read_questions(address, "questions.train")
        assert str(caught.value).startswith(address)
        assert said in str(caught.value)
