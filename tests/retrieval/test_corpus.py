"""What a corpus is made of: tables, the contexts of question files, documents; its account and version."""

import bz2
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.data.passages import find_passages, plan_units, read_unit
from steper_ray.data.questions import read_questions
from steper_ray.data.row_counts import RowCounts, row_count_lines, skipped_file
from steper_ray.errors import ConfigError, InputError, find_steper_error
from steper_ray.retrieval import open_retriever
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import Passage
from tests.data.published_rows import HOTPOTQA_FILE, MUSIQUE_FILE, as_on_the_hub, hotpotqa_rows
from tests.data.test_tables import jsonl
from tests.fakes import hits_of
from tests.samples import index_corpus

ROW = {"id": "a", "title": "Red Fox", "text": "The fox hunts at night."}


def corpus_config(folder: Path, **corpus: object) -> RunConfig:
    (folder / "run.yaml").write_text(json.dumps({"corpus": corpus}))
    # a folder whose name Ray, Lance and Arrow could take for an address or a pattern
    return load_config(folder / "run.yaml", [f"run.dir={folder / 'run?of #[x]%20*'}"])


def passages_of(config: RunConfig) -> tuple[list[Passage], list[RowCounts]]:
    accounts: list[RowCounts] = []
    units = plan_units(find_passages(config.corpus).sources, config.corpus)
    passages = [p for unit in units for p in read_unit(unit, config.corpus, accounts)]
    for account in accounts:
        account.check()
    return passages, accounts


def test_the_contexts_of_question_files_are_a_corpus(tmp_path: Path) -> None:
    hub = tmp_path / "hub.parquet"
    pq.write_table(pa.Table.from_pylist([as_on_the_hub(row) for row in hotpotqa_rows()]), hub)
    files = [str(HOTPOTQA_FILE), str(MUSIQUE_FILE), str(hub)]
    passages, accounts = passages_of(corpus_config(tmp_path, passages=files))
    # 40 × 10 and 10 × 20 contexts, of which 400 and 196 differ; the Hub's form brings none of its own.
    assert [(a.format, a.read, a.used, dict(a.notes)) for a in accounts] == [
        ("HotpotQA", 40, 40, {"passages": 400}),
        ("MuSiQue", 10, 10, {"passages": 196, "passages met before": 4}),
        ("HotpotQA", 40, 40, {"passages met before": 400}),
    ]
    assert len({p.id for p in passages}) == len({(p.title, p.text) for p in passages}) == 596
    ids = {p.id: p for p in passages}
    for file in files:
        for question in read_questions(file, "questions.train"):
            assert len(question.supporting_ids) == question.hops
            assert all(id in ids for id in question.supporting_ids)
    titles = {p.title for p in passages}
    for row in hotpotqa_rows():
        assert {title for title, _ in row["supporting_facts"]} <= titles


def test_contexts_count_whether_or_not_their_question_does(tmp_path: Path) -> None:
    rows = hotpotqa_rows()[:2]
    del rows[0]["answer"]
    rows[1]["context"] += [["Blank", [" "]], ["", ["x"]]]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    passages, (account,) = passages_of(corpus_config(tmp_path, passages=str(tmp_path / "*.json")))
    assert len(passages) == 20 + 1  # it may have no title
    assert account.notes["passages without text, left out"] == 1


def test_an_indexed_corpus_of_all_kinds(ray_cluster: None, tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    (docs / "deep").mkdir(parents=True)
    (docs / "guide.md").write_text("# Owls\n\nOwls see at night. They hunt mice.\n")
    (docs / "deep" / "page.html").write_text("<title>Hens</title><p>Hens lay eggs.")
    (docs / "deep" / "empty.txt").write_text("\n")
    (docs / "picture.png").write_text("x")
    table = jsonl(tmp_path, ROW)
    addresses = [f"file://{HOTPOTQA_FILE}", str(MUSIQUE_FILE), str(table), f"file://{docs}"]
    config = corpus_config(tmp_path, passages=addresses, passage_size=20, passage_overlap=0)
    info = index_corpus(config)
    assert info.passages == 400 + 196 + 1 + 2 + 1
    assert row_count_lines(config.folder.inputs, "corpus.passages") == [
        "corpus.passages: table of passages, 1 read = 1 used + 0 skipped",
        "corpus.passages: HotpotQA, 40 read = 40 used + 0 skipped; 400 passages",
        "corpus.passages: MuSiQue, 10 read = 10 used + 0 skipped; 196 passages, 4 passages met before",
        "corpus.passages: documents (.txt), 1 read = 0 used + 1 skipped (1 no_text)",
        "corpus.passages: documents (.html), 1 read = 1 used + 0 skipped; 1 passages",
        "corpus.passages: documents (.md), 1 read = 1 used + 0 skipped; 2 passages",
        f"corpus.passages: skipped rows → {skipped_file(config.folder.inputs, 'corpus.passages')}",
        "corpus.passages: 1 files of other kinds left out",
    ]
    retriever = open_retriever(config.folder.corpus)
    assert retriever.version == info.version
    (hit,) = hits_of(retriever, "who hunts mice", 1)
    assert (hit.passage.title, hit.passage.text) == ("Owls", "They hunt mice.")
    assert hit.passage.id.startswith("guide.md#")
    assert hits_of(retriever, "eggs of hens", 1)[0].passage.id.startswith("deep/page.html#")
    # Recall of the supporting passages by one search with the question. Measured elsewhere with Lance
    # over the 400 of HotpotQA, title and text in one field: 0.787 at 4; here, among 600, it was 0.775.
    questions = read_questions(str(HOTPOTQA_FILE), "questions.dev")
    found = wanted = 0
    for question in questions:
        ids = {hit.passage.id for hit in hits_of(retriever, question.question, 4)}
        found += len(ids & set(question.supporting_ids))
        wanted += len(question.supporting_ids)
    assert wanted == 80
    assert found / wanted > 0.75


def test_the_version_is_of_the_content_not_of_how_it_came(
    ray_cluster: None, tmp_path: Path
) -> None:
    (tmp_path / "hub.parquet").parent.mkdir(exist_ok=True)
    hub = tmp_path / "hub.parquet"
    rows = hotpotqa_rows()[:4]
    pq.write_table(pa.Table.from_pylist([as_on_the_hub(row) for row in rows]), hub)
    raw = tmp_path / "raw.json"
    raw.write_text(json.dumps(rows[::-1]))
    fewer = tmp_path / "fewer.json"
    fewer.write_text(json.dumps(rows[:3]))
    cases: list[tuple[Path, dict[str, object]]] = [
        (hub, {}),
        (raw, {"passage_size": 99, "passage_overlap": 9, "bad_rows": "skip"}),
        (raw, {"retriever": {"stem": False}}),
        (fewer, {}),
    ]
    versions = [
        index_corpus(corpus_config(tmp_path, passages=str(file), **settings)).version
        for file, settings in cases
    ]
    assert versions[0] == versions[1]
    assert len(set(versions)) == 3


def test_bad_passages_are_skipped_where_that_is_asked_for(
    ray_cluster: None, tmp_path: Path
) -> None:
    table = jsonl(tmp_path, {"id": "x", "title": "T"}, ROW, name="a.jsonl")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    config = corpus_config(
        tmp_path, passages=[str(table), str(tmp_path / "b.txt")], bad_rows="skip"
    )
    assert index_corpus(config).passages == 1
    lines = skipped_file(config.folder.inputs, "corpus.passages").read_text().splitlines()
    skipped = [json.loads(line) for line in lines]
    assert [(row["file"], row["row"], row["reason"]) for row in skipped] == [
        (str(table), 1, "bad_row"),
        (str(tmp_path / "b.txt"), 1, "bad_row"),
    ]
    assert "no column 'text'" in skipped[0]["error"]
    assert "invalid UTF-8" in skipped[1]["error"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"a.txt": " ", "b.json": "[]"}, "no passage in it"),
        ({"a/x.md": "x", "b/x.md": "y"}, "two documents called x.md"),
        (
            {"a.jsonl": json.dumps({**ROW, "id": "x"}) + "\n" + json.dumps({**ROW, "id": "x"})},
            "'x' is",
        ),
        ({"a.png": ""}, "or .htm file in this folder (1 others)"),
    ],
)
def test_a_corpus_that_cannot_be_made(
    ray_cluster: None, tmp_path: Path, files: dict[str, str], said: str
) -> None:
    for name, text in files.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(text)
    folders = sorted({str((tmp_path / "in" / name).parent) for name in files})
    config = corpus_config(tmp_path, passages=folders)
    with pytest.raises(Exception) as caught:  # noqa: PT011 - Ray wraps what its workers raise
        index_corpus(config)
    error = find_steper_error(caught.value)
    assert isinstance(error, InputError)
    assert said in str(error)
    assert not config.folder.corpus.exists()


def test_columns_of_other_names_and_settings_that_cannot_be(tmp_path: Path) -> None:
    file = jsonl(tmp_path, {"docid": 7, "head": "T", "body": "x"})
    columns = {"id": "docid", "title": "head", "text": "body"}
    passages, _ = passages_of(corpus_config(tmp_path, passages=str(file), columns=columns))
    assert passages == [Passage("7", "T", "x")]
    (tmp_path / "AA").mkdir()
    line = {"id": "12", "url": "u", "title": "T", "text": ["One.", " Two."]}
    content = bz2.compress(json.dumps(line).encode())
    (tmp_path / "AA" / "wiki_00.bz2").write_bytes(content)
    dump = str(tmp_path / "*" / "wiki_*.bz2")  # HotpotQA's Wikipedia: sentences, and no suffix
    assert passages_of(corpus_config(tmp_path, passages=dump))[0] == [
        Passage("12", "T", "One. Two.")
    ]
    with pytest.raises(ConfigError, match="passage_overlap must be smaller than passage_size"):
        corpus_config(tmp_path, passage_size=5, passage_overlap=5)
    with pytest.raises(InputError, match=r"corpus\.passages is not set"):
        find_passages(corpus_config(tmp_path).corpus)
