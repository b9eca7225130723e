"""The run file: what is accepted, and how every mistake is named."""

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from steper_ray.errors import ConfigError, InputError
from steper_ray.run.config import RunConfig
from steper_ray.run.kinds import section_of
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
    assert config.folder.root == tmp_path / "b"
    assert config.corpus.passages == str(tmp_path / "b" / "p.jsonl")
    assert config.folder.chains == tmp_path / "b" / "chains"


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
        (
            "reasoning: {max_steps: five}",
            ["reasoning.max_steps: expected a whole number, got 'five'"],
        ),
        ("reasoning: {max_steps: 0}", ["reasoning.max_steps: must be greater than 0, got 0"]),
        ("train: {zero_stage: 7}", ["train.zero_stage", "got 7"]),
        ("serve: {port: 70000}", ["serve.port", "65535", "got 70000"]),
        ("reasoning: {passages_per_step: 1.5}", ["expected a whole number, got 1.5"]),
        ("train: {lr: fast}", ["train.lr: expected a number, got 'fast'"]),
        ("train: {use_gpu: maybe}", ["train.use_gpu: expected true or false, got 'maybe'"]),
        ("train: {fixed_weights: 1}", ["train.fixed_weights: expected ", ", got 1"]),
        ("eval: {models: 5}", ["eval.models: expected keys with values, got 5"]),
        ("train: {trackers: mlflow}", ["train.trackers: expected a list, got 'mlflow'"]),
        (
            "questions: {train: 5, columns: x}",
            ["questions.columns: expected a section with keys (a"],
        ),
        (
            "build: {endpoint: http://h/v1}",
            ["build.endpoint: expected a section with keys (api, ", "base_url, ", "'http://h/v1'"],
        ),
        ("reasoning: 5", ["reasoning: expected a section with keys (chat, ", "), got 5"]),
        ("run: 5", ["run", "got 5"]),
        ("- 1", ["sections", "list"]),
        ("a: [", ["not valid YAML"]),
        ("run: {seed: 2026-99-99}", ["run.seed: expected a whole number, got '2026-99-99'"]),
        ("reasoning: {template_date: 2026-99-99}", ["reasoning.template_date: ", "month"]),
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


@pytest.mark.parametrize("override", ["run.dir", "dir=x", ".x=1", "train.trackers=[", "=1"])
def test_a_malformed_override_is_refused(tmp_path: Path, override: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        load_config(write(tmp_path, ""), [override])


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such run file"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_bytes(b"run: \xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_config(tmp_path / "bad.yaml")
    with pytest.raises(InputError, match=f"^{tmp_path}: is a folder; give a YAML file"):
        load_config(tmp_path)


def keys_of(section: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key path of the run file, sections included."""
    for name, field in section.model_fields.items():
        yield (*path, name)
        if (inner := section_of(field.annotation)) is not None:
            yield from keys_of(inner, (*path, name))


def test_a_value_of_any_kind_is_taken_or_refused_in_one_line(tmp_path: Path) -> None:
    values: list[object] = [5, "x", None, [5], {"x": 5}, {"type": []}, [{"x": {}}]]
    refused = []
    for keys in keys_of(RunConfig):
        for value in values:
            text = json.dumps(functools.reduce(lambda inner, key: {key: inner}, keys[::-1], value))
            try:
                load_config(write(tmp_path, text))
            except ConfigError as error:
                refused.append((keys[0], str(error)))
    assert len(refused) > 500
    for section, message in refused:
        assert "\n" not in message
        assert section in message


@pytest.mark.parametrize(
    "name", ["2026-11-27", "17", "017", "1_0", "1e3", "1.50", "no", "12:30:00"]
)
def test_text_is_taken_as_it_is_written(tmp_path: Path, name: str) -> None:
    """Also where YAML by itself would read a date, a number or a truth value."""
    # in a file …
    file = write(
        tmp_path,
        f"run: {{dir: {name}, data: {name}}}\n"
        f"build: {{teacher: {name}, ensemble: [{{teacher: {name}}}]}}\n"
        f"train: {{model: {name}, offload_dir: {name}}}\n"
        f"serve: {{keys_file: {name}}}\nquestions: {{train: {name}}}\n"
        f"corpus: {{passages: [a, {name}]}}\n"
        f"eval: {{models: {{{name}: {name}}}}}\n"
        f"reasoning: {{demonstrations: [{{question: {name}, steps: "
        f"[{{text: 'So the answer is: {name}.', passages: [{{title: {name}, text: {name}}}]}}]}}]}}\n",
    )
    config = load_config(file)
    assert config.folder.root == Path.cwd() / name
    assert config.folder.data == Path.cwd() / name
    assert [config.build.teacher, config.build.ensemble[0].teacher] == [name, name]
    assert [config.train.model, config.train.offload_dir] == [name, name]
    assert [config.serve.keys_file, config.questions.train] == [name, name]
    assert config.corpus.passages == ("a", name)
    assert config.eval.models == {name: name}
    assert isinstance(config.reasoning.demonstrations, tuple)
    (demonstration,) = config.reasoning.demonstrations
    assert demonstration.question == demonstration.steps[0].passages[0].title == name
    # … and on the command line
    given = {
        "run.dir": name,
        "run.data": name,
        "build.teacher": name,
        "train.model": name,
        "train.offload_dir": name,
        "serve.keys_file": name,
        "questions.train": name,
        "corpus.passages": name,
    }
    overrides = [f"{key}={value}" for key, value in given.items()]
    config = load_config(write(tmp_path, ""), [*overrides, f"eval.models={{{name}: {name}}}"])
    assert config.folder.root == Path.cwd() / name
    assert config.folder.data == Path.cwd() / name
    assert (config.build.teacher, config.train.model) == (name, name)
    assert (config.corpus.passages, config.eval.models) == (name, {name: name})


def test_what_is_no_text_stays_what_yaml_says(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "run: {seed: &seven 7, data: *seven}\ntrain: {offload_dir: null, use_gpu: yes}\n"
        "engine: {args: {a: 7, b: no, c: {1: 2026-11-27}}}\n"
        "reasoning: {chat: false}\n",
    )
    config = load_config(file, ["engine.args.d=7", "build.limit=8"])
    assert (config.run.seed, config.folder.data) == (7, Path.cwd() / "7")
    assert (config.train.offload_dir, config.train.use_gpu) == (None, True)
    assert config.engine.args == {"a": 7, "b": False, "c": {1: "2026-11-27"}, "d": 7}
    assert (config.reasoning.chat, config.build.limit) == (False, 8)


@pytest.mark.parametrize("given", ["null", "[a]", "{a: b}"])
def test_a_run_folder_that_is_no_text_is_not_another_one(tmp_path: Path, given: str) -> None:
    with pytest.raises(ConfigError, match=r"run\.dir: expected text"):
        load_config(write(tmp_path, f"run: {{dir: {given}}}"))


def test_a_run_folder_is_not_taken_back(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.dir: expected text, got None"):
        load_config(write(tmp_path, "run: {dir: a}"), ["run.dir=null"])


LOCAL = {
    "run.dir": "run: {{dir: '{}'}}",
    "run.data": "run: {{data: '{}'}}",
    "build.teacher": "build: {{teacher: '{}'}}",
    "build.demonstrations": "build: {{demonstrations: '{}'}}",
    "build.ensemble.0.teacher": "build: {{ensemble: [{{teacher: '{}'}}]}}",
    "build.endpoint.tokenizer": "build: {{endpoint: {{base_url: 'http://h/v1', tokenizer: '{}'}}}}",
    "reasoning.demonstrations": "reasoning: {{demonstrations: '{}'}}",
    "train.model": "train: {{model: '{}'}}",
    "train.offload_dir": "train: {{offload_dir: '{}'}}",
    "eval.models.mine": "eval: {{models: {{mine: '{}'}}}}",
    "serve.model": "serve: {{model: '{}'}}",
    "serve.keys_file": "serve: {{keys_file: '{}'}}",
}
"""Settings that are local paths → a run file that gives one."""


@pytest.mark.parametrize("address", ["s3://bucket/a", "gs://b/a", "http://h/a", "file:///a"])
@pytest.mark.parametrize("setting", LOCAL)
def test_an_address_is_no_path(tmp_path: Path, setting: str, address: str) -> None:
    file = write(tmp_path, LOCAL[setting].format(address))
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: {setting}: ")
    assert f"must be a local path, not an address, got {address!r}; mount that storage" in message
    assert address in message
    assert "\n" not in message
    load_config(write(tmp_path, LOCAL[setting].format("a/b" if ":" not in setting else "bundled")))


@pytest.mark.parametrize(
    "wrong",
    ["localhost:8000", "http:/localhost/v1", "http://", "http://h:port/v1", "ftp://h/v1", ""],
)
def test_an_endpoint_s_address_is_checked_before_any_question(tmp_path: Path, wrong: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, f"build: {{endpoint: {{base_url: '{wrong}'}}}}"))
    assert str(caught.value).endswith(
        f"build.endpoint.base_url: expected an address, got {wrong!r}; write it as "
        "http://localhost:8000/v1"
    )
    load_config(write(tmp_path, "build: {endpoint: {base_url: 'http://[::1]:8000/v1'}}"))


def test_addresses_stay_where_rows_and_endpoints_are_named(tmp_path: Path) -> None:
    config = load_config(
        write(tmp_path, "build: {endpoint: {base_url: 'https://host/v1'}}"),
        ["questions.train=s3://b/q.jsonl", "corpus.passages=[gs://b/p, hf://datasets/a/b/c.csv]"],
    )
    assert config.questions.train == "s3://b/q.jsonl"
    assert config.corpus.passages == ("gs://b/p", "hf://datasets/a/b/c.csv")
    assert config.build.endpoint is not None
    assert config.build.endpoint.base_url == "https://host/v1"


def test_the_folder_of_another_run_is_absolute_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert load_config(write(tmp_path, "run: {data: a}")).folder.data == tmp_path / "a"
    assert load_config(write(tmp_path, "run: {data: ~/a}")).folder.data == tmp_path / "home" / "a"


@pytest.mark.parametrize("run", ["dir: runs/a", "seed: 0", "dir: /runs/a, data: ../b"])
def test_a_submitted_job_needs_absolute_run_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: str
) -> None:
    file = write(tmp_path, f"run: {{{run}}}")
    load_config(file)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(
        ConfigError, match=r": run\.(dir|data): must be absolute in a submitted job"
    ):
        load_config(file)
    config = load_config(file, ["run.dir=/runs/a", 'run.data="{run.dir}/../b"'])
    assert (config.folder.root, config.folder.data) == (Path("/runs/a"), Path("/runs/a/../b"))
