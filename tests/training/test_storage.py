"""Room on the disk, counted by hand for a model of three tensors."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from steper_ray.errors import InputError
from steper_ray.models.folder import model_size
from steper_ray.training.settings import TrainConfig
from steper_ray.training.storage import Needed, check_storage, cost_of_a_death, needed_storage

TENSORS = {
    "model.embed_tokens.weight": (10, 4),
    "model.layers.0.self_attn.q_proj.weight": (6, 4),
    "model.layers.0.mlp.up_proj.weight": (8, 4),
    "model.norm.weight": (4,),
}
WEIGHTS = 40 + 24 + 32 + 4


@pytest.fixture
def model(tmp_path: Path) -> str:
    folder = tmp_path / "model"
    folder.mkdir()
    arrays = {name: np.zeros(shape, np.float32) for name, shape in TENSORS.items()}
    save_file(arrays, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize(
    ("values", "checkpoint"),
    [
        ({}, 12 * WEIGHTS),
        ({"zero_stage": 0}, 12 * WEIGHTS),
        ({"zero_stage": 2}, 16 * WEIGHTS),
        ({"zero_stage": 1, "use_gpu": True}, 14 * WEIGHTS),  # bf16
        ({"zero_stage": 1, "use_gpu": True, "precision": "fp32"}, 16 * WEIGHTS),
        ({"lora": {"rank": 2}}, 12 * 2 * ((6 + 4) + (8 + 4))),
        ({"lora": {"rank": 3, "target_modules": ["q_proj"]}}, 12 * 3 * (6 + 4)),
    ],
)
def test_a_checkpoint_has_what_is_trained(
    model: str, values: dict[str, Any], checkpoint: int
) -> None:
    needed = needed_storage(TrainConfig(model=model, **values))
    assert needed is not None
    assert needed.checkpoint == checkpoint
    assert needed.student == 4 * WEIGHTS


@pytest.mark.parametrize(
    ("values", "checkpoints", "students"),
    [
        ({}, 3, 2),  # the last one, and its copy
        ({"validation_chains": 5, "num_to_keep": 4}, 5, 3),
        ({"validation_chains": 5, "num_to_keep": 4, "best_by": "em"}, 5, 6),
    ],
)
def test_checkpoints_and_students_are_counted_with_the_one_being_written(
    model: str, values: dict[str, Any], checkpoints: int, students: int
) -> None:
    needed = needed_storage(TrainConfig(model=model, **values))
    assert needed is not None
    assert (needed.checkpoints, needed.students) == (checkpoints, students)
    assert needed.total == checkpoints * 12 * WEIGHTS + students * 4 * WEIGHTS


GB = 10**9
NEEDED = Needed(checkpoints=3, checkpoint=4 * GB, students=2, student=GB, data=GB)


ONE = "3 checkpoints of 4.0 GB, 2 students of 1.0 GB, training data of 1.0 GB"
TWICE = "the best student twice); make room or lower train.num_to_keep or sweep.concurrent"
LOWER = "make room or lower train.num_to_keep"


@pytest.mark.parametrize(
    ("more", "total", "said"),
    [
        ({}, 15, f"training takes up to 15.0 GB ({ONE}); {LOWER}"),
        ({"there": 8 * GB}, 7, f"training takes up to 7.0 GB more ({ONE}); {LOWER}"),
        ({"trials": 2}, 32, f"2 trials at a time take up to 32.0 GB (each {ONE}, and {TWICE}"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_and_what_just_fits_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict[str, int], total: int, said: str
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=total * GB))
    check_storage(tmp_path, NEEDED, **more)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=total * GB - 1))
    with pytest.raises(InputError) as refused:
        check_storage(tmp_path, NEEDED, **more)
    assert str(refused.value) == f"run.dir: {tmp_path} has {total:.1f} GB free, {said}"


def test_a_model_in_the_cache_of_the_hub_has_its_size_when_all_files_are_there(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert needed_storage(TrainConfig(model="owner/name")) is None
    commit = "c" * 40
    repository = cache / "models--owner--name"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    assert model_size("owner/name") == (None, None)
    (snapshot / "a.safetensors").symlink_to(Path(model) / "model.safetensors")
    index = {"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    assert model_size("owner/name") == (None, None)
    save_file({"y": np.zeros((2, 3), np.float16)}, snapshot / "b.safetensors")
    assert model_size("owner/name") == (WEIGHTS + 6, 4 * WEIGHTS + 12)
    assert model_size("owner/name", commit) == model_size("owner/name")


@pytest.mark.parametrize(
    ("values", "lost"),
    [
        ({}, "at most 30 minutes (train.checkpoint_every_minutes)"),
        (
            {"checkpoint_every_steps": 50},
            "at most 30 minutes (train.checkpoint_every_minutes), or 50",
        ),
        (
            {"checkpoint_every_minutes": 0, "checkpoint_every_steps": 50},
            "at most 50 steps (train.checkpoint_every_steps)",
        ),
        ({"checkpoint_every_minutes": 0}, "all of it: no checkpoint is written before the end"),
    ],
)
def test_the_cost_of_a_death_is_said(
    tmp_path: Path, model: str, values: dict[str, Any], lost: str
) -> None:
    settings = TrainConfig(model=model, **values)
    line = cost_of_a_death(settings, tmp_path, needed_storage(settings))
    assert line.startswith(f"a dead worker costs {lost}")
    assert f"; a checkpoint of {12 * WEIGHTS / 1000} kB takes some 0.0 s here" in line
    assert cost_of_a_death(settings, tmp_path, None).endswith(")")


def test_weights_in_a_second_form_are_not_counted(model: str) -> None:
    """As Mistral's folders have them, under other names."""
    arrays = {
        f"consolidated.{name}": np.zeros(shape, np.float32) for name, shape in TENSORS.items()
    }
    save_file(arrays, Path(model) / "consolidated.safetensors")
    assert model_size(model) == (WEIGHTS, 4 * WEIGHTS)
    (Path(model) / "model.safetensors").rename(Path(model) / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(TENSORS, "model-00001-of-00001.safetensors")
    index = Path(model) / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert model_size(model) == (WEIGHTS, 4 * WEIGHTS)
