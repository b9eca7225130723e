"""Which stages run again: by their settings, and by the files that they read."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from steper_ray.errors import InputError, StageError
from steper_ray.pipeline import ledger
from steper_ray.pipeline.ledger import forget, pending_stages, run_pending_stages
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config

STAGES = ("index", "build", "train", "eval")


def write_results(name: str, config: RunConfig) -> None:
    """A file in the place of each result of a stage, unless there is one."""
    folder = config.folder
    for file in {
        "index": [folder.corpus / "rows.lance"],
        "build": [folder.chains / "0.parquet", folder.dataset / "data" / "0.parquet", folder.stats],
        "train": [folder.student / "config.json"],
        "eval": [folder.evaluation / "report.html"],
    }[name]:
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.write_text("{}")


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The stages that have run, each with a file in the place of its results."""
    names: list[str] = []

    def run_stage(name: str, config: RunConfig) -> float:
        names.append(name)
        write_results(name, config)
        return 2.0

    monkeypatch.setattr(ledger, "run_stage", run_stage)
    return names


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("passages", "train", "dev", "test"):
        (tmp_path / f"{name}.jsonl").write_text(f'{{"id": "{name}"}}\n')
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "config.json").write_text("{}")
    (tmp_path / "run.yaml").write_text(
        f"""
run: {{dir: {tmp_path}/run}}
corpus: {{passages: {tmp_path}/passages.jsonl}}
questions: {{train: {tmp_path}/train.jsonl, dev: {tmp_path}/d*.jsonl, test: {tmp_path}/test.jsonl}}
build: {{teacher: {tmp_path}/teacher}}
train: {{model: owner/student}}
"""
    )
    return tmp_path


def run_all(folder: Path, *overrides: str) -> dict[str, Any]:
    return run_pending_stages(STAGES, load_config(folder / "run.yaml", overrides))


def test_second_run_does_nothing(
    folder: Path, ran: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_all(folder)
    assert ran == [*STAGES]
    assert run_all(folder) == first
    assert ran == [*STAGES]
    shown = capsys.readouterr().out.splitlines()
    line = "up to date: already done with these settings and files  (2 s)"
    assert shown == [f"{name:>6}  {line}" for name in STAGES]
    assert {name: entry["seconds"] for name, entry in first.items()} == dict.fromkeys(STAGES, 2.0)


def test_a_stage_that_is_run_by_itself_is_run_again_with_what_follows(
    folder: Path, ran: list[str]
) -> None:
    """Its results may be those of other settings."""
    run_all(folder)
    forget(STAGES[2], load_config(folder / "run.yaml"))
    run_all(folder)
    assert ran == [*STAGES, *STAGES[2:]]


def test_a_dry_run_is_no_training(folder: Path, ran: list[str]) -> None:
    dry = run_all(folder, "train.dry_run=true")
    assert "train" not in dry
    run_all(folder)
    assert ran.count("train") == 2


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("passages.jsonl", STAGES),
        ("train.jsonl", STAGES[1:]),
        ("teacher/config.json", STAGES[1:]),
        ("dev.jsonl", STAGES[3:]),
        ("dev-2.jsonl", STAGES[3:]),  # a new one that the pattern matches
        ("test.jsonl", ()),  # no stage of the range reads it
    ],
)
def test_changed_file_runs_what_reads_it_and_what_follows(
    folder: Path, ran: list[str], changed: str, again: tuple[str, ...]
) -> None:
    run_all(folder)
    ran.clear()
    (folder / changed).write_text("another size")
    config = load_config(folder / "run.yaml")
    assert pending_stages(STAGES, config) == [*again]
    run_all(folder)
    assert ran == [*again]


def test_same_size_at_another_time_is_another_file(folder: Path, ran: list[str]) -> None:
    run_all(folder)
    ran.clear()
    os.utime(folder / "dev.jsonl", ns=(1, 1))
    run_all(folder)
    assert ran == ["eval"]


def test_what_an_earlier_stage_wrote_by_hand_counts(folder: Path, ran: list[str]) -> None:
    """As `steper select` does with other settings: it writes the examples, and no ledger."""
    examples = folder / "run" / "stepwise" / "data"
    examples.mkdir(parents=True)
    (examples / "0.parquet").write_bytes(b"1")
    run_all(folder)
    ran.clear()
    (examples / "0.parquet").write_bytes(b"12")
    run_all(folder)
    assert ran == ["train", "eval"]


def test_card_of_a_student_is_no_input_and_a_document_of_that_name_is(
    folder: Path, ran: list[str]
) -> None:
    """An evaluation writes its scores into the student's card."""
    (folder / "run" / "student").mkdir(parents=True)
    (folder / "documents").mkdir()
    (folder / "documents" / "README.md").write_text("a passage")
    documents = f"corpus.passages={folder}/documents"
    run_all(folder, documents)
    ran.clear()
    (folder / "run" / "student" / "README.md").write_text("scores")
    run_all(folder, documents)
    assert ran == []
    (folder / "documents" / "README.md").write_text("another passage")
    run_all(folder, documents)
    assert ran == [*STAGES]


def test_changed_setting_runs_its_stage_and_what_follows(folder: Path, ran: list[str]) -> None:
    run_all(folder)
    ran.clear()
    run_all(folder, "select.min_words=3")
    assert ran == ["build", "train", "eval"]
    ran.clear()
    run_all(folder, "select.min_words=3", "engine.replicas=2")  # nothing depends on it
    assert ran == []


def test_moved_run_folder_is_the_same(folder: Path, ran: list[str]) -> None:
    student = folder / "run" / "student"
    student.mkdir(parents=True)
    (student / "config.json").write_text("{}")
    run_all(folder)
    ran.clear()
    (folder / "run").rename(folder / "moved")
    run_all(folder, f"run.dir={folder}/moved")
    assert ran == []


def test_entry_without_files_is_up_to_date_by_its_settings(folder: Path, ran: list[str]) -> None:
    """As earlier versions wrote it."""
    run_all(folder)
    ran.clear()
    file = folder / "run" / "stages.json"
    entries = json.loads(file.read_text())
    file.write_text(json.dumps({name: {**e, "files": None} for name, e in entries.items()}))
    assert pending_stages(STAGES, load_config(folder / "run.yaml")) == [*STAGES]
    for entry in entries.values():
        del entry["files"], entry["outputs"]
    file.write_text(json.dumps(entries))
    run_all(folder)
    assert ran == []


@pytest.mark.parametrize("of_an_earlier_version", [False, True])
@pytest.mark.parametrize(
    ("result", "again"),
    [
        ("corpus.lance", STAGES),
        ("chains", STAGES[1:]),
        ("stepwise", STAGES[1:]),
        ("stats.json", STAGES[1:]),
        ("student", STAGES[2:]),
        ("evaluation", STAGES[3:]),
    ],
)
def test_a_stage_that_has_lost_its_result_runs_again(
    folder: Path,
    ran: list[str],
    capsys: pytest.CaptureFixture[str],
    result: str,
    again: tuple[str, ...],
    of_an_earlier_version: bool,
) -> None:
    entries = run_all(folder)
    if of_an_earlier_version:
        for entry in entries.values():
            del entry["files"], entry["outputs"]
        (folder / "run" / "stages.json").write_text(json.dumps(entries))
    ran.clear()
    capsys.readouterr()
    lost = folder / "run" / result
    shutil.rmtree(lost) if lost.is_dir() else lost.unlink()
    assert pending_stages(STAGES, load_config(folder / "run.yaml")) == [*again]
    run_all(folder)
    assert ran == [*again]
    named = lost / "data" if result == "stepwise" else lost
    said = capsys.readouterr().out.replace(f"{folder}/run/stepwise is", f"{named} is")
    assert f"{again[0]:>6}  runs again: {named} is missing or damaged\n" in said


@pytest.mark.parametrize(
    ("file", "again"),
    [
        ("corpus.lance/rows.lance", STAGES),
        ("chains/0.parquet", STAGES[1:]),
        ("student/config.json", STAGES[2:]),
        ("evaluation/report.html", STAGES[3:]),
    ],
)
def test_a_truncated_result_is_made_again(
    folder: Path, ran: list[str], file: str, again: tuple[str, ...]
) -> None:
    """Not where only the files of chains and examples differ, which people and `steper select` write."""
    run_all(folder)
    (folder / "run" / file).write_text("")
    assert pending_stages(STAGES, load_config(folder / "run.yaml")) == [*again]


def test_failing_stage_leaves_the_finished_ones(
    folder: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(name: str, config: RunConfig) -> float:
        if name == "train":
            raise OSError("a lost node")
        write_results(name, config)
        return 1.0

    with monkeypatch.context() as failing:
        failing.setattr(ledger, "run_stage", fail)
        with pytest.raises(StageError) as failed:
            run_all(folder)
    assert str(failed.value) == (
        f"stage train failed: OSError: a lost node; its log is {folder}/run/logs/train/latest; run the "
        "same command again to go on from here"
    )
    run_all(folder)
    assert ran == ["train", "eval"]


def test_error_of_the_user_stays_as_it_is(
    folder: Path, ran: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_name: str, _config: RunConfig) -> float:
        raise InputError("corpus.passages: empty")

    monkeypatch.setattr(ledger, "run_stage", refuse)
    with pytest.raises(InputError, match=r"^corpus\.passages: empty$"):
        run_all(folder)
    assert ran == []
