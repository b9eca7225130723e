"""What a job carries, where it is put, and that both depend on content alone."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from steper_ray.errors import InputError
from steper_ray.pipeline.jobs import files
from steper_ray.pipeline.jobs.files import (
    find_carried,
    rewritten,
    run_folder,
    size_text,
    write_package,
)
from steper_ray.pipeline.jobs.start import place_files, version_lines
from steper_ray.run.loading import load_config, load_values


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data and a model, and a run file that names them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("train", "dev", "dev-2", "passages"):
        (tmp_path / "data" / f"{name}.jsonl").write_text("{}\n")
    (tmp_path / "student" / "sub").mkdir(parents=True)
    (tmp_path / "student" / "config.json").write_text("{}")
    (tmp_path / "student" / "sub" / "weights").write_text("w")
    (tmp_path / "student" / ".hidden").write_text("h")
    (tmp_path / "run.yaml").write_text(
        """
run: {dir: /shared/run}
corpus: {passages: [data/passages.jsonl, "s3://bucket/more", "hf:owner/set:x:train"]}
questions: {train: data/train.jsonl, dev: "data/dev*.jsonl", test: /shared/test.jsonl}
train: {model: student, offload_dir: /data}
serve: {keys_file: /keys.yaml}
build: {teacher: owner/teacher}
eval: {models: {student: "{run.dir}/student"}}
"""
    )
    return tmp_path


def values_of(folder: Path, *overrides: str) -> dict[str, Any]:
    return load_values(folder / "run.yaml", overrides)


def pack(folder: Path, file: Path, *overrides: str) -> None:
    values = values_of(folder, *overrides)
    carried = find_carried(values)
    write_package(
        file, values, carried, command=["train"], versions={"ray": "1"}, packages=["b", "a"]
    )


def test_local_files_that_exist_are_carried(folder: Path) -> None:
    carried = find_carried(values_of(folder))
    assert {one.named.setting: len(one.named.files) for one in carried} == {
        "corpus.passages.0": 1,
        "questions.train": 1,
        "questions.dev": 2,
        "train.model": 2,
    }
    assert sum(one.named.size for one in carried) == 4 * 3 + 3
    train, dev = carried[1], carried[2]
    assert train.target == f"{train.digest}/train.jsonl"
    assert dev.target == f"{dev.digest}/dev*.jsonl"
    assert dev.place(folder / "data" / "dev-2.jsonl") == f"{dev.digest}/dev-2.jsonl"


def test_keys_are_not_carried_though_they_are_here(folder: Path) -> None:
    """A revoked key would stay valid in the job's copy."""
    keys = folder / "keys.yaml"
    keys.write_text("{}")
    values = values_of(folder, f"serve.keys_file={keys}")
    carried = find_carried(values)
    assert "serve.keys_file" not in {one.named.setting for one in carried}
    (folder / "job.yaml").write_text(rewritten(values, carried))
    assert load_config(folder / "job.yaml").serve.keys_file == str(keys)


def test_nothing_of_a_shared_folder_or_the_run_folder_is_carried(folder: Path) -> None:
    values = values_of(folder, f"run.dir={folder}/data")
    assert [one.named.setting for one in find_carried(values)] == ["train.model"]
    assert find_carried(values, ["student"]) == []


def test_run_file_of_the_job_names_the_copies(folder: Path) -> None:
    values = values_of(folder, "questions.test=data/train.jsonl", "run.seed=3")
    carried = find_carried(values)
    (folder / "job.yaml").write_text(rewritten(values, carried))
    job = load_config(folder / "job.yaml")
    digest = {one.named.setting: one.digest for one in carried}
    there = "/shared/run/submitted"
    assert job.run.dir == "/shared/run"
    assert job.run.seed == 3
    assert job.questions.train == f"{there}/{digest['questions.train']}/train.jsonl"
    assert job.questions.test == job.questions.train
    assert job.questions.dev == f"{there}/{digest['questions.dev']}/dev*.jsonl"
    assert job.train.model == f"{there}/{digest['train.model']}/student"
    assert job.train.offload_dir == "/data"
    assert job.serve.keys_file == "/keys.yaml"
    assert job.build.teacher == "owner/teacher"
    assert job.eval.models == {"student": "/shared/run/student"}
    passages = job.corpus.passages
    assert passages[1:] == ("s3://bucket/more", "hf:owner/set:x:train")


def test_same_content_is_the_same_package_and_other_content_other_paths(
    folder: Path, tmp_path: Path
) -> None:
    pack(folder, tmp_path / "1.zip")
    before = {one.named.setting: one.digest for one in find_carried(values_of(folder))}
    assert len(set(before.values())) == 4  # the same content under another name is another file
    (folder / "data" / "train.jsonl").write_text("{}\n")  # another time, and nothing else
    pack(folder, tmp_path / "2.zip")
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "2.zip").read_bytes()
    (folder / "student" / "sub" / "weights").write_text("v")
    now = {one.named.setting: one.digest for one in find_carried(values_of(folder))}
    assert {name for name in now if now[name] != before[name]} == {"train.model"}


def test_package_is_put_in_place_once(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "job.zip")
    work, run = tmp_path / "work", tmp_path / "there"
    with zipfile.ZipFile(tmp_path / "job.zip") as package:
        package.extractall(work)
    job = json.loads((work / "job.json").read_text())
    assert (job["command"], job["folder"], job["packages"]) == (
        ["train"],
        "/shared/run",
        ["a", "b"],
    )
    assert (work / "start.py").is_file()
    assert place_files(work / "carried", run) == 4
    (model,) = (run / "submitted").glob("*/student")
    below = {str(file.relative_to(model)) for file in model.rglob("*") if file.is_file()}
    assert below == {"config.json", "sub/weights"}
    stamps = {file: file.stat().st_mtime_ns for file in run.rglob("*")}
    assert place_files(work / "carried", run) == 0
    assert {file: file.stat().st_mtime_ns for file in run.rglob("*")} == stamps


def test_too_much_is_refused_by_the_largest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_CARRIED", 14)
    with pytest.raises(InputError) as refused:
        find_carried(values_of(folder))
    assert str(refused.value).startswith(
        "questions.dev: data/dev*.jsonl has 0.0 KiB, and a job carries at most 0.0 KiB (all files here: "
    )
    assert "--shared FOLDER" in str(refused.value)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("run.dir=runs/x", "run.dir: runs/x: must be absolute in a submission; "),
        ("run.dir=", "run.dir: must not be empty, got"),
        ("run.data=runs/y", "run.data: runs/y: must be absolute in a submission; name the other"),
        ("train.offload_dir=data", "train.offload_dir: data: must be absolute in a submission; "),
        (
            "serve.keys_file=data/train.jsonl",
            "serve.keys_file: data/train.jsonl: must be absolute in a submission; a job carries no keys",
        ),
        (
            "questions.dev=nowhere.jsonl",
            "questions.dev: nowhere.jsonl does not exist here, and a relative",
        ),
        (
            "corpus.passages=[x/*.txt]",
            "corpus.passages.0: x/*.txt does not exist here, and a relative",
        ),
    ],
)
def test_what_cannot_be_submitted_is_one_line(folder: Path, override: str, said: str) -> None:
    with pytest.raises(InputError) as refused:
        find_carried(values_of(folder, override))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_default_run_folder_is_refused() -> None:
    with pytest.raises(InputError, match=r"run\.dir: not set: must be absolute"):
        run_folder({})


def test_versions_that_differ_are_one_line_and_missing_packages_another() -> None:
    versions = {"python": "3.11.7", "ray": "2.60.0", "steper_ray": "0.1.0"}
    assert version_lines(versions, ["torch"], {**versions, "torch": "2"}) == []
    found = {"python": "3.12.1", "ray": "2.60.0"}
    others, missing = version_lines(versions, ["datasets", "torch"], found)
    assert others == (
        "the cluster has other versions than the machine that submitted: python 3.12.1 instead of 3.11.7; "
        "if the stage fails for it, install the same ones, or submit with --pip-lock"
    )
    assert missing == (
        "the cluster lacks packages: datasets, torch; install them on every node, or submit with "
        "--pip-lock"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [(512, "0.5 KiB"), (3 * 2**20, "3.0 MiB"), (2 * 2**30, "2,048.0 MiB")],
)
def test_size_in_words(size: int, text: str) -> None:
    assert size_text(size) == text
