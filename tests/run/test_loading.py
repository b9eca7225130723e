"""The run file: what is accepted, and how every mistake is named."""

from pathlib import Path

import pytest

from steper_ray.errors import ConfigError, InputError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from tests.conftest import ROOT


def write(folder: Path, text: str) -> Path:
    file = folder / "run.yaml"
    file.write_text(text)
    return file


def test_every_shipped_run_file_loads() -> None:
    files = sorted((ROOT / "jobs" / "configs").glob("*.yaml"))
    files.append(ROOT / "steper_ray" / "toy" / "run.yaml")
    assert len(files) >= 2
    for file in files:
        assert isinstance(load_config(file), RunConfig)


def test_the_run_folder_is_absolute_and_filled_into_values(tmp_path: Path) -> None:
    file = write(
        tmp_path, f'run: {{dir: "{tmp_path}/a"}}\ncorpus: {{passages: "{{run.dir}}/p.jsonl"}}\n'
    )
    config = load_config(file, ["run.dir=" + str(tmp_path / "b")])
    assert config.dir == tmp_path / "b"
    assert config.corpus.passages == str(tmp_path / "b" / "p.jsonl")
    assert config.chains_dir == tmp_path / "b" / "chains"


def test_overrides_are_read_as_yaml_and_checked(tmp_path: Path) -> None:
    file = write(tmp_path, "reasoning: {max_steps: 3}\n")
    config = load_config(file, ["reasoning.max_steps=4", "engine.args.enforce_eager=true"])
    assert config.reasoning.max_steps == 4
    assert config.engine.args == {"enforce_eager": True}
    assert config.reasoning.passages_per_step == 4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("reasoning: {max_step: 3}", ["reasoning.max_step: unknown key", "max_steps"]),
        ("reasonin: {max_steps: 3}", ["reasonin: unknown key", "reasoning"]),
        ("reasoning: {zzzz: 3}", ["reasoning.zzzz: unknown key", "valid keys", "instruction"]),
        ("reasoning: {max_steps: five}", ["reasoning.max_steps", "integer", "'five'"]),
        ("reasoning: {max_steps: 0}", ["reasoning.max_steps", "greater than 0", "got 0"]),
        ("train: {zero_stage: 7}", ["train.zero_stage", "got 7"]),
        ("serve: {port: 70000}", ["serve.port", "65535", "got 70000"]),
        ("reasoning: 5", ["reasoning", "got 5"]),
        ("run: 5", ["run", "got 5"]),
        ("- 1", ["sections", "list"]),
        ("a: [", ["not valid YAML"]),
        ("run: {dir: a}\nrun: {dir: b}", ["'run' is given twice", "line 2"]),
        ("run: {dir: a, dir: b}", ["'dir' is given twice"]),
    ],
)
def test_a_mistake_is_named_with_file_key_and_way_out(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("override", ["run.dir", "dir=x", ".x=1", "run.dir=[", "=1"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(write(tmp_path, ""), [override])


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"run: \xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_config(tmp_path / "bad.yaml")
