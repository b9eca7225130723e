"""Engines of single uses are whole: what is not said of one is as in the engines that it differs from."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from steper_ray.errors import ConfigError
from steper_ray.pipeline.jobs.named_files import named_paths
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config

TEACHER: dict[str, Any] = {
    "gpus": 4,
    "cpus": 8,
    "max_num_seqs": 128,
    "args": {"tensor_parallel_size": 4, "max_model_len": 4096},
}


def load(folder: Path, values: dict[str, Any], *overrides: str) -> RunConfig:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump({"run": {"dir": str(folder)}, **values}))
    return load_config(file, overrides)


def test_keys_left_out_are_those_of_the_engines_above(tmp_path: Path) -> None:
    small = {"gpus": 1, "args": {"tensor_parallel_size": 1}}
    config = load(
        tmp_path,
        {
            "engine": TEACHER,
            "build": {
                "teacher": "/models/big",
                "engine": {"max_num_seqs": 64},
                "ensemble": [{"teacher": "/models/small", "engine": small}],
            },
            "eval": {
                "models": {"student": "/s", "teacher": "/t"},
                "engine": small,
                "engines": {"teacher": {"gpus": 4, "args": {"tensor_parallel_size": 4}}},
            },
            "sweep": {"engine": {"replicas": 2}},
        },
        "serve.engine.gpus=4",
    )
    build, own = config.build.engine, config.build.ensemble[0].engine
    assert build is not None
    assert own is not None
    assert (build.gpus, build.cpus, build.max_num_seqs) == (4, 8, 64)
    assert (own.gpus, own.cpus, own.max_num_seqs) == (1, 8, 64)
    assert own.args == {"tensor_parallel_size": 1, "max_model_len": 4096}
    student, teacher = config.eval.engine_of("student"), config.eval.engine_of("teacher")
    assert student is not None
    assert teacher is not None
    assert (student.gpus, teacher.gpus, teacher.cpus) == (1, 4, 8)
    assert config.sweep.engine is not None
    assert (config.sweep.engine.gpus, config.sweep.engine.replicas) == (1, 2)  # as eval.engine
    assert config.serve.engine == config.engine


def test_an_engine_of_one_use_is_checked_whole(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"build\.engine: gpus: 1 are reserved, and args say 4"):
        load(tmp_path, {"engine": TEACHER, "build": {"engine": {"gpus": 1}}})
    with pytest.raises(ConfigError, match=r"eval: engines: no model is called studnet; did you"):
        load(tmp_path, {"eval": {"engines": {"studnet": {"gpus": 1}}}})


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ({"gpus": 1.5}, r"gpus: 1\.5 cannot be placed; set whole GPUs"),
        ({"gpus": 2}, r"gpus: 2 are reserved, and args say 1 .*; set gpus: 1"),
        ({"gpus": 8, "args": {"tensor_parallel_size": 16}}, "set gpus: 16"),
        ({"gpus": 0.5, "args": {"tensor_parallel_size": 2}}, "set gpus: 2"),
        ({"replicas": [3, 2]}, "the least number of engines is above the most"),
        ({"accelerator_type": "H100"}, "is for engines on GPUs; set gpus"),
        ({"gpus": 1, "args": {"pipeline_parallel_size": "two"}}, "must be a whole number above 0"),
    ],
)
def test_gpus_are_those_of_an_engines_processes(
    tmp_path: Path, engine: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=rf"engine: {said}|engine: .*{said}"):
        load(tmp_path, {"engine": engine})


def test_parts_of_a_gpu_and_divided_layers(tmp_path: Path) -> None:
    assert load(tmp_path, {"engine": {"gpus": 0.25}}).engine.size == 1
    sizes = {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}
    engine = load(tmp_path, {"engine": {"gpus": 8, "args": sizes}}).engine
    assert (engine.size, engine.pipeline_size) == (8, 2)
    with pytest.raises(ConfigError, match="need a fixed number"):
        load(tmp_path, {"engine": {"gpus": 8, "args": sizes, "replicas": "auto"}})
    engine = load(tmp_path, {"engine": {"replicas": "auto"}}).engine
    assert (engine.min_replicas, engine.max_replicas) == (1, None)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "{plian: {max_steps: 1}}",
            "eval: reasoning: no model is called plian; did you mean plain",
        ),
        (
            "{plain: {max_stops: 1}}",
            "eval.reasoning.plain.max_stops: unknown key; did you mean max_st",
        ),
        ("{plain: {max_steps: 0}}", "eval.reasoning.plain.max_steps: must be greater than 0"),
    ],
)
def test_how_a_model_is_asked_is_checked(tmp_path: Path, given: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(f"eval: {{models: {{plain: /models/m}}, reasoning: {given}}}")
    with pytest.raises(ConfigError, match=re.escape(said)):
        load_config(file)


def test_a_model_may_be_asked_in_another_way(tmp_path: Path) -> None:
    """Its keys are laid over those of `reasoning`; a file that they name is an input."""
    file = tmp_path / "run.yaml"
    file.write_text(
        "reasoning: {passages_per_step: 7}\n"
        "eval: {models: {plain: /m}, reasoning: {plain: {max_steps: 1, demonstrations: shots.yaml}}}"
    )
    config = load_config(file)
    asked = config.eval.reasoning["plain"]
    assert (asked.passages_per_step, asked.max_steps) == (7, 1)
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
    named = named_paths(config.model_dump(mode="json"))
    assert named["eval.reasoning.plain.demonstrations"].endswith("shots.yaml")


@pytest.mark.parametrize("name", ["/models/m", "../student", "", ".", "steps", "a/b"])
def test_a_models_name_is_that_of_a_folder(tmp_path: Path, name: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump({"eval": {"models": {name: "/models/m"}}}))
    with pytest.raises(ConfigError, match="cannot be a model's name"):
        load_config(file)
