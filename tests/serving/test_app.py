"""Which student and corpus a server takes, and keeps when newer ones are made."""

import json
from pathlib import Path

import pytest

from steper_ray.errors import InputError
from steper_ray.models.student_settings import SETTINGS_FILE, student_settings
from steper_ray.retrieval.corpus_record import CorpusRecord, write_corpus_record
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.run.versions import place_version, version_folder
from steper_ray.serving.app import spec_of
from steper_ray.serving.session import server_spec
from tests.serving.test_overrides import TRAINED

FIRST, SECOND = "0a" * 6, "1b" * 6


@pytest.fixture
def run(tmp_path: Path) -> RunConfig:
    """A run with one student and one corpus."""
    (tmp_path / "run.yaml").write_text(
        f"run: {{dir: {tmp_path / 'run'}}}\nserve: {{open: true}}\n", encoding="utf-8"
    )
    run = load_config(tmp_path / "run.yaml", [])
    make(run, FIRST)
    return run


def make(run: RunConfig, identity: str) -> None:
    """A new student and a new corpus."""
    folder = version_folder(run.folder.corpus, identity[:8])
    folder.mkdir(parents=True)
    write_corpus_record(folder, CorpusRecord(identity, 2, {"type": "none"}))
    place_version(run.folder.corpus, folder)
    folder = version_folder(run.folder.student, identity)
    folder.mkdir()
    for name, content in (("config.json", "{}"), ("model.safetensors", "")):
        (folder / name).write_text(content)
    settings = student_settings(TRAINED, identity, chat=False)
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
    place_version(run.folder.student, folder)


def test_a_server_keeps_the_student_and_corpus_that_it_started_with(run: RunConfig) -> None:
    before = server_spec(run)
    make(run, SECOND)
    assert Path(before.model).name == f"student-{FIRST}"
    assert (Path(before.model) / "config.json").is_file()
    assert before.corpus.name == f"corpus-{FIRST[:8]}.lance"
    after = server_spec(run)
    assert Path(after.model).name == f"student-{SECOND}"
    assert after.reasoning.trained_version == after.reasoning.corpus_version == SECOND
    assert (before.model_name, after.model_name) == ("student", "student")


@pytest.mark.parametrize("named", [FIRST, f"student-{FIRST}", "{run}/student-" + FIRST])
def test_a_serve_config_file_names_a_version(run: RunConfig, named: str) -> None:
    make(run, SECOND)
    root = run.folder.root
    config = str(root.parent / "run.yaml")
    newest = spec_of({"config": config})
    assert newest.model == str(root / f"student-{SECOND}")
    student = named.replace("{run}", str(root))
    spec = spec_of({"config": config, "student": student, "corpus": FIRST[:8]})
    assert spec.model == str(root / f"student-{FIRST}")
    assert spec.model_name == newest.model_name == "student"
    assert spec.corpus == root / f"corpus-{FIRST[:8]}.lance"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"student": "beef"},
            rf"args\.student: beef: no such folder, and no version .*: student-{FIRST}",
        ),
        ({"corpus": "beef"}, rf"args\.corpus: .*: corpus-{FIRST[:8]}\.lance"),
        (
            {"studnet": FIRST},
            r"args: no argument 'studnet'; there are config, student, corpus",
        ),
        ({"config": ""}, r"args\.config is not set"),
    ],
)
def test_what_a_serve_config_file_cannot_name(
    run: RunConfig, given: dict[str, str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        spec_of({"config": str(run.folder.root.parent / "run.yaml"), **given})
