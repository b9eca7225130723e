"""Model folders: what makes two of them the same model."""

import json
import os
import shutil
from collections.abc import Callable
from datetime import date
from pathlib import Path

import pytest
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from steper_ray import __version__
from steper_ray.errors import InputError
from steper_ray.models.folder import check_model, model_identity, pinned
from steper_ray.models.hub import split_revision
from steper_ray.models.loading import load_model_config, load_tokenizer
from steper_ray.models.settings import HubConfig
from steper_ray.models.student_settings import SETTINGS_FILE, carried_settings, student_settings
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.identity import RULES
from steper_ray.toy.write import MODELS

OFFLINE = HubConfig(offline=True)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODELS / "base", tmp_path / "model"))


def test_a_copied_folder_with_new_times_is_the_same_model(model: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(model, tmp_path / "elsewhere" / "named", copy_function=shutil.copyfile)
    for file in Path(copied).iterdir():
        os.utime(file, (1, 1))
    (Path(copied) / "README.md").write_text("A card.")
    (Path(copied) / SETTINGS_FILE).write_text("{}")
    config = json.loads((Path(copied) / "config.json").read_text())
    config |= {"_name_or_path": "/elsewhere", "transformers_version": "9"}
    (Path(copied) / "config.json").write_text(json.dumps(config))
    assert model_identity(str(copied)) == model_identity(str(model))


def change_json(name: str, **values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / name
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def change_weight(folder: Path) -> None:
    file = folder / "model.safetensors"
    weights = load_file(file)
    name = min(weights)
    weights[name].view(-1)[-1] += 1
    save_file(weights, file)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("weights", change_weight),
        ("config", change_json("config.json", rms_norm_eps=0.5)),
        ("generation_config", change_json("generation_config.json", top_k=3)),
        ("tokenizer", change_json("tokenizer_config.json", model_max_length=17)),
        ("tokenizer", change_json("tokenizer.json", truncation={"max_length": 3})),
        ("chat_template", change_json("tokenizer_config.json", chat_template="{{ x }}")),
        ("chat_template", lambda folder: (folder / "chat_template.jinja").write_text("{{ x }}")),
        ("code", lambda folder: (folder / "modeling_own.py").write_text("SIGN = 1")),
    ],
)
def test_another_model_differs_in_the_part_that_is_another(
    model: Path, part: str, change: Callable[[Path], object]
) -> None:
    before = model_identity(str(model))
    change(model)
    now = model_identity(str(model))
    assert [name for name in now if now[name] != before[name]] == [part]


def test_weights_that_are_none_are_named(model: Path) -> None:
    (model / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0no JSON!")
    with pytest.raises(InputError, match=r"model\.safetensors: not a safetensors file"):
        model_identity(str(model))
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"a" * 1000)
    before = model_identity(str(model))["weights"]
    (model / "pytorch_model.bin").write_bytes(b"a" * 999 + b"b")
    assert model_identity(str(model))["weights"] != before


@pytest.fixture
def on_hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A repository in the cache of this machine: revision → commit; they differ in their configuration."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = cache / "models--owner--name"
    commits = {"main": "a" * 40, "v1": "b" * 40}
    for number, (revision, commit) in enumerate(commits.items()):
        snapshot = repository / "snapshots" / commit
        shutil.copytree(model, snapshot)
        change_json("config.json", rms_norm_eps=float(number + 1))(snapshot)
        change_json("tokenizer_config.json", model_max_length=number + 1)(snapshot)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    return commits


def test_a_name_on_the_hub_is_its_commit(on_hub: dict[str, str]) -> None:
    for revision in ("main", "v1"):
        commit = on_hub[revision]
        assert model_identity("owner/name", revision, OFFLINE) == {
            "name": "owner/name",
            "commit": commit,
        }
        assert pinned("owner/name", revision, OFFLINE) == commit
    assert pinned("owner/name", None, OFFLINE) == on_hub["main"]
    assert pinned("owner/name", "c" * 40, OFFLINE) == "c" * 40
    assert (
        pinned("owner/other", "v1", OFFLINE) == "v1"
    )  # whoever loads it says why it cannot be had
    assert model_identity("owner/other", "v1", OFFLINE) == {
        "name": "owner/other",
        "revision": "v1",
    }


def test_the_revision_is_what_is_loaded(on_hub: dict[str, str]) -> None:
    for number, revision in enumerate(("main", "v1", on_hub["main"], on_hub["v1"])):
        expected = number % 2 + 1
        config = load_model_config("owner/name", OFFLINE, revision)
        assert config.rms_norm_eps == expected
        assert load_tokenizer("owner/name", OFFLINE, revision).model_max_length == expected


def test_a_folder_has_no_revision(model: Path) -> None:
    assert check_model(str(model), "build.teacher") == str(model)
    with pytest.raises(
        InputError, match=r"build\.teacher: .* is a folder, which has no revision \(v1\)"
    ):
        check_model(str(model), "build.teacher", "v1")
    assert pinned(str(model), None) is None


def test_a_revision_may_follow_a_name(tmp_path: Path) -> None:
    folder = tmp_path / "a@b"
    folder.mkdir()
    assert split_revision("owner/name@v1.0") == ("owner/name", "v1.0")
    assert split_revision("owner/name") == ("owner/name", None)
    assert split_revision(str(folder)) == (str(folder), None)


def test_a_student_of_an_earlier_version_is_asked_with_what_it_was_trained_with(
    tmp_path: Path,
) -> None:
    """Its prompts have the same tokens by the rules of today, and its passages were whole."""
    settings = student_settings(
        complete_reasoning(ReasoningConfig(template_date="2025-02-03")), "v1", chat=True
    )
    assert (settings["rules"]["tokens"], settings["template_date"]) == (2, "2025-02-03")
    assert settings["max_passage_tokens"] == 512
    file = tmp_path / SETTINGS_FILE
    file.write_text(json.dumps(settings))
    carried = carried_settings(str(tmp_path))
    assert carried is not None
    assert carried[0].max_passage_tokens == 512
    assert carried[0].template_date == date(2025, 2, 3)
    for name in ("template_date", "max_passage_tokens"):
        del settings[name]
    settings["rules"]["tokens"] = 1
    file.write_text(json.dumps(settings))
    older = carried_settings(str(tmp_path))
    assert older is not None
    assert (older[0].max_passage_tokens, older[0].template_date) == (0, date(2024, 7, 26))


def test_a_student_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    base = {"name": "owner/name", "commit": "a" * 40}
    settings = student_settings(ReasoningConfig(instruction="Go."), "v1", chat=False, base=base)
    assert (settings["format"], settings["steper_ray"]) == (1, __version__)
    assert settings["base_model"] == base
    assert settings["rules"] == RULES  # those of asking and of the objective
    file = tmp_path / SETTINGS_FILE
    file.write_text(json.dumps(settings))
    assert carried_settings(str(tmp_path)) is not None
    file.write_text(json.dumps({**settings, "format": 2, "steper_ray": "3.0.0", "new": {}}))
    with pytest.raises(
        InputError, match=r"steper\.json: written by steper_ray 3\.0\.0 in format 2"
    ):
        carried_settings(str(tmp_path))
    file.write_text(json.dumps({**settings, "rules": {**settings["rules"], "prompt": 2}}))
    with pytest.raises(
        InputError, match=r"trained with prompt rule 2 by steper_ray .* knows rule 1"
    ):
        carried_settings(str(tmp_path))
