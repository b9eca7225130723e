"""Addresses → files: folders, patterns, Arrow's and fsspec's file systems, S3 over its own protocol."""

import bz2
import gzip
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.data.addresses import DATA_SUFFIXES, DOCUMENT_SUFFIXES, find_sources
from steper_ray.data.questions import read_questions
from steper_ray.errors import InputError

QUESTION = {"id": "a", "question": "q?", "answer": "x"}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in (
        "b.jsonl",
        "a.parquet",
        "deep/er/c.csv",
        "deep/d.JSON.gz",
        "notes.md",
        "x.bin",
        ".hidden/e.jsonl",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    return tmp_path


def test_a_folder_gives_what_can_be_read_and_says_what_it_left_out(tree: Path) -> None:
    found = find_sources(str(tree), "questions.train")
    assert [source.name for source in found.sources] == [
        "a.parquet",
        "b.jsonl",
        "deep/d.JSON.gz",
        "deep/er/c.csv",
    ]
    assert [source.suffix for source in found.sources] == [".parquet", ".jsonl", ".json", ".csv"]
    assert [str(source) for source in found.sources] == [str(tree / s.name) for s in found.sources]
    assert sorted(found.skipped_files) == [".hidden/e.jsonl", "notes.md", "x.bin"]
    with_documents = find_sources(str(tree), "c", (*DATA_SUFFIXES, *DOCUMENT_SUFFIXES))
    assert sorted(with_documents.skipped_files) == [".hidden/e.jsonl", "x.bin"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("*.jsonl", ["b.jsonl"]),
        ("[ab].*", ["a.parquet", "b.jsonl"]),
        ("?.parquet", ["a.parquet"]),
        ("**/*.csv", ["deep/er/c.csv"]),
        ("deep/**", ["d.JSON.gz", "er/c.csv"]),
        ("deep/*/*", ["er/c.csv"]),
    ],
)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_pattern(tree: Path, pattern: str, names: list[str], scheme: str) -> None:
    if scheme:
        pattern = pattern.replace("?", "[!b]")  # where a scheme stands, ? begins the query
    found = find_sources(f"{scheme}{tree}/{pattern}", "questions.train")
    # Names are below the last folder that the pattern spells out.
    assert [source.name.removeprefix("deep/") for source in found.sources] == [
        name.removeprefix("deep/") for name in names
    ]


def test_a_name_with_a_sign_of_patterns_in_it_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "a[1].jsonl").write_text("")
    (tmp_path / "a1.jsonl").write_text("")
    (found,) = find_sources(str(tmp_path / "a[1].jsonl"), "questions.train").sources
    assert found.name == "a[1].jsonl"


def test_a_pattern_below_a_folder_with_a_sign_of_patterns_in_its_name(tmp_path: Path) -> None:
    for folder in ("run[1]?", "run1x"):
        (tmp_path / folder / "deep").mkdir(parents=True)
        (tmp_path / folder / "deep" / "a1.jsonl").write_text("")
    (found,) = find_sources(str(tmp_path / "run[1]?" / "*" / "a?.jsonl"), "questions.train").sources
    assert found.path == str(tmp_path / "run[1]?" / "deep" / "a1.jsonl")


def test_a_snapshot_of_the_hub_gives_its_tables(tmp_path: Path) -> None:
    for name in ("README.md", "dataset_infos.json", "data/train.jsonl", ".gitattributes"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}")
    kinds = (*DATA_SUFFIXES, *DOCUMENT_SUFFIXES)
    found = find_sources(str(tmp_path), "corpus.passages", kinds)
    assert [source.name for source in found.sources] == ["data/train.jsonl"]
    assert sorted(found.skipped_files) == [".gitattributes", "README.md", "dataset_infos.json"]
    # among other documents it is one of them
    (tmp_path / "guide.md").write_text("x")
    found = find_sources(str(tmp_path), "corpus.passages", kinds)
    assert [s.name for s in found.sources] == ["README.md", "data/train.jsonl", "guide.md"]


def test_what_datasets_saved_is_named_and_never_taken_for_rows(tmp_path: Path) -> None:
    import datasets

    saved = tmp_path / "saved"
    rows = datasets.Dataset.from_list([QUESTION])
    datasets.DatasetDict({"train": rows}).save_to_disk(str(saved))
    (saved / "README.md").write_text("x")
    kinds = (*DATA_SUFFIXES, *DOCUMENT_SUFFIXES)
    for folder in (saved, saved / "train"):
        with pytest.raises(InputError) as caught:
            find_sources(str(folder), "corpus.passages", kinds)
        assert str(caught.value) == (
            f"corpus.passages: {folder}: a folder that save_to_disk of datasets wrote; name it "
            f"hf:{folder}, or write it as a table with to_parquet"
        )
        assert [q.id for q in read_questions(f"hf:{folder}", "questions.train")] == ["a"]
    rows.to_parquet(str(saved / "train.parquet"))
    assert [q.id for q in read_questions(str(saved), "questions.train")] == ["a"]
    described = tmp_path / "described"
    described.mkdir()
    (described / "dataset_info.json").write_text('{"splits": ["train"]}')
    with pytest.raises(InputError, match=r"or \.parquet file in this folder \(1 others\)"):
        find_sources(str(described), "questions.train")
    (described / "guide.md").write_text("x")
    found = find_sources(str(described), "corpus.passages", kinds)
    assert [source.name for source in found.sources] == ["guide.md"]


@pytest.mark.parametrize(
    ("name", "compress"),
    [
        ("a.JSONL.GZ", gzip.compress),
        ("a.ndjson.Gz", gzip.compress),
        ("a.jsonlines.BZ2", bz2.compress),
        ("a.jsonl.zstd", lambda content: pa.compress(content, codec="zstd", asbytes=True)),
    ],
)
def test_endings_in_any_case(tmp_path: Path, name: str, compress: Callable[[bytes], bytes]) -> None:
    (tmp_path / name).write_bytes(compress(json.dumps(QUESTION).encode()))
    assert [q.id for q in read_questions(str(tmp_path), "questions.train")] == ["a"]


def test_a_file_made_to_fill_the_machine_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steper_ray.data.compression.FREE_BYTES", 1 << 20)
    bomb = gzip.compress(b"[" + b" " * (8 << 20) + b"]")  # 1,000 bytes of each
    (tmp_path / "bomb.json.gz").write_bytes(bomb)
    with pytest.raises(InputError, match=r"bomb\.json\.gz: becomes more than 250 times as large"):
        read_questions(str(tmp_path / "bomb.json.gz"), "questions.train")
    rows = "".join(json.dumps({**QUESTION, "id": at}) + "\n" for at in range(50_000))  # 2 MB
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    assert len(read_questions(str(tmp_path / "rows.jsonl.gz"), "questions.train")) == 50_000


def test_several_addresses_give_each_file_once(tree: Path) -> None:
    found = find_sources([str(tree / "b.jsonl"), str(tree)], "corpus.passages")
    assert found.sources[0].name == "b.jsonl"
    assert len(found.sources) == 4


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "questions.train is not set; name a file, a folder"),
        ("{}/none.jsonl", "questions.train: {}/none.jsonl: no such file; check the path"),
        ("{}/none/*.jsonl", "nothing matches the pattern"),
        (
            "{}/empty",
            "no .jsonl, .ndjson, .jsonlines, .json, .csv, .tsv or .parquet file in this folder (1 others)",
        ),
        ("nonsense://x/y", "nonsense://x/y: cannot be opened"),
        ("s3://key:hush@bucket/x.jsonl", "s3://bucket/x.jsonl: an address holds no keys"),
    ],
)
def test_an_address_with_nothing_behind_it(tmp_path: Path, address: str, said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "x.bin").write_text("")
    with pytest.raises(InputError) as caught:
        find_sources(address.format(tmp_path), "questions.train")
    assert said.format(tmp_path) in str(caught.value)
    assert "hush" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_any_file_system_of_fsspec(tmp_path: Path) -> None:
    files = fsspec.filesystem("memory")
    files.pipe("/steper/deep/a.jsonl", json.dumps(QUESTION).encode())
    files.pipe("/steper/b.jsonl.gz", gzip.compress(json.dumps({**QUESTION, "id": "b"}).encode()))
    table = pa.Table.from_pylist([{**QUESTION, "id": "c"}])
    with files.open("/steper/c.parquet", "wb") as file:
        pq.write_table(table, file)
    try:
        for address, ids in [
            ("memory://steper", ["b", "c", "a"]),
            ("memory://steper/*.jsonl*", ["b"]),
            ("memory:///steper/c.parquet", ["c"]),
        ]:
            assert [q.id for q in read_questions(address, "questions.train")] == ids
        (bad,) = find_sources("memory://steper/b.jsonl.gz", "questions.train").sources
        assert str(bad) == "memory:///steper/b.jsonl.gz"
    finally:
        files.rm("/steper", recursive=True)


@contextmanager
def s3_server(files: dict[str, bytes]) -> Iterator[str]:
    """Serves bucket/key → bytes over the part of S3's protocol that listing and reading use."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def answer(self, code: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(code)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            url = urlsplit(self.path)
            path, query = unquote(url.path).strip("/"), parse_qs(url.query)
            if path in files:
                body = files[path]
                if asked := self.headers.get("Range"):
                    first, last = map(int, asked.removeprefix("bytes=").split("-"))
                    part = body[first : last + 1]
                    range_ = f"bytes {first}-{first + len(part) - 1}/{len(body)}"
                    self.answer(206, part, Content_Range=range_)
                else:
                    modified = "Wed, 01 Jan 2025 00:00:00 GMT"
                    self.answer(200, body, ETag='"1"', Last_Modified=modified)
            elif "list-type" in query:
                start = f"{path}/{query.get('prefix', [''])[0]}"
                items = "".join(
                    f"<Contents><Key>{escape(name.partition('/')[2])}</Key><Size>{len(body)}</Size>"
                    "<LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents>"
                    for name, body in sorted(files.items())
                    if name.startswith(start)
                )
                count = (
                    f"<KeyCount>{items.count('<Key>')}</KeyCount><IsTruncated>false</IsTruncated>"
                )
                listed = f"<ListBucketResult>{count}{items}</ListBucketResult>"
                self.answer(200, listed.encode(), Content_Type="application/xml")
            else:
                self.answer(404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"?endpoint_override=127.0.0.1:{server.server_port}&scheme=http&region=us-east-1"
    finally:
        server.shutdown()
        server.server_close()


def test_s3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    table = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{**QUESTION, "id": "b"}]), table)
    files = {
        "bucket/data/a a.jsonl": json.dumps(QUESTION).encode(),
        "bucket/data/b.parquet": table.getvalue().to_pybytes(),
        "bucket/data/c.jsonl": b"{",
        "bucket/other.jsonl": b"",
    }
    with s3_server(files) as connection:
        for path, ids in [("data/*[ab].*", ["a", "b"]), ("data/b.parquet", ["b"])]:
            found = read_questions(f"s3://bucket/{path}{connection}", "questions.train")
            assert [question.id for question in found] == ids
        with pytest.raises(InputError, match=r"^s3://bucket/data/c\.jsonl: row 1: not valid JSON"):
            read_questions(f"s3://bucket/data{connection}", "questions.train")
        with pytest.raises(InputError, match=r"s3://bucket/none\.jsonl: no such file"):
            read_questions(f"s3://bucket/none.jsonl{connection}", "questions.train")
