"""Paths of a run file: home folders, environment variables, the run folder."""

from pathlib import Path

import pytest
import yaml

from steper_ray.errors import ConfigError
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config, run_file_text
from steper_ray.run.paths import escaped, expanded


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/$me")
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("NAME_1", "a {run.dir} $DATA")
    monkeypatch.setenv("HF_TOKEN", "not-a-path")
    monkeypatch.setenv("KEYS_FILE", "/keys.yaml")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOPE", raising=False)


def load(folder: Path, text: str) -> RunConfig:
    file = folder / "run.yaml"
    file.write_text(text, encoding="utf-8")
    return load_config(file)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("~", "/home/$me"),
        ("~/a$DATA", "/home/$me/a/data"),
        ("a/~", "a/~"),
        ("$DATA/x", "/data/x"),
        ("${DATA}x", "/datax"),
        ("s3://b/${DATA}/$NAME_1.jsonl", "s3://b//data/a {run.dir} $DATA.jsonl"),
        ("$$DATA", "$DATA"),
        ("$$$DATA", "$/data"),
        ("a$", "a$"),
        ("a$/1$1", "a$/1$1"),
        ("$KEYS_FILE", "/keys.yaml"),
        ("relative/p.jsonl", "relative/p.jsonl"),
        ("", ""),
    ],
)
def test_expanded_by_hand(path: str, value: str) -> None:
    assert expanded(path) == value


@pytest.mark.parametrize("path", ["$DATA", "a$$b", "costs $5", "a$"])
def test_what_is_escaped_stays_as_it_is(path: str) -> None:
    assert expanded(escaped(path)) == path


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("$NOPE/x", "the environment variable NOPE is not set; set it, or write $$"),
        ("/x/${NOPE}", "the environment variable NOPE is not set"),
        ("$EMPTY/runs", "the environment variable EMPTY is not set"),
        ("${NOPE:-x}", "${NOPE:-x} names no environment variable; write ${NAME}, or $$"),
        ("${run-dir}/x", "${run-dir} names no environment variable"),
        ("${}", "${} names no environment variable"),
        ("${DATA", "${DATA names no environment variable"),
        ("s3://$HF_TOKEN@b/x", "$HF_TOKEN may hold a secret, which no path may"),
        (
            "~nosuchuser/x",
            "~nosuchuser is no user's home folder; write the folder in full, or ./~nosuchuser",
        ),
    ],
)
def test_what_cannot_be_filled_in_is_refused(tmp_path: Path, path: str, reason: str) -> None:
    for section, key in (("run", "dir"), ("build", "teacher"), ("questions", "train")):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, f"{section}: {{{key}: '{path}'}}")
        message = str(caught.value)
        assert f"run.yaml: {section}.{key}: {reason}" in message
        assert "\n" not in message
        assert "not-a-path" not in message


@pytest.mark.parametrize(
    ("written", "control"),
    [
        (r"C:\runs", r"'\r'"),
        (r"a\0b", r"'\x00'"),
        (r"a\nb", r"'\n'"),
        (r"a\tb", r"'\t'"),
        (r"a\x7f", r"'\x7f'"),
        (r"a\N", r"'\x85'"),
    ],
)
def test_control_characters_are_refused(tmp_path: Path, written: str, control: str) -> None:
    for section, key in (("run", "dir"), ("run", "data"), ("corpus", "passages")):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, f'{section}: {{{key}: "{written}"}}')
        assert str(caught.value).endswith(
            f"run.yaml: {section}.{key}: holds the control character {control}, which no path may; write "
            "a path with backslashes in single quotes"
        )


def test_every_path_is_filled_in(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        "run: {dir: $DATA/r, data: ~/d}\n"
        "corpus: {passages: [$DATA/p, ~/p, '{run.dir}/p', 'hf:o/$DATA']}\n"
        "questions: {train: ~/t, dev: '${DATA}/d', test: '{run.dir}/t', aliases: $DATA/a}\n"
        "build: {teacher: $DATA/m, demonstrations: ~/d,\n"
        "        endpoint: {base_url: http://h/v1, tokenizer: ~/t},\n"
        "        ensemble: [{teacher: $DATA/n, demonstrations: $DATA/e}]}\n"
        "reasoning: {demonstrations: $DATA/f}\n"
        "train: {model: ~/m, offload_dir: $DATA/o}\n"
        "eval: {models: {a: $DATA/a, b: o/n@main}}\n"
        "serve: {model: '{run.dir}/s', keys_file: ~/k}\n",
    )
    home = "/home/$me"
    assert (config.run.dir, config.run.data) == ("/data/r", f"{home}/d")
    assert config.corpus.passages == ("/data/p", f"{home}/p", "/data/r/p", "hf:o//data")
    questions = config.questions
    assert (questions.train, questions.dev) == (f"{home}/t", "/data/d")
    assert (questions.test, questions.aliases) == ("/data/r/t", "/data/a")
    assert (config.build.teacher, config.build.demonstrations) == ("/data/m", f"{home}/d")
    assert config.build.endpoint is not None
    assert config.build.endpoint.tokenizer == f"{home}/t"
    assert config.build.ensemble[0].teacher == "/data/n"
    assert config.build.ensemble[0].demonstrations == "/data/e"
    assert config.reasoning.demonstrations == "/data/f"
    assert (config.train.model, config.train.offload_dir) == (f"{home}/m", "/data/o")
    assert config.eval.models == {"a": "/data/a", "b": "o/n@main"}
    assert (config.serve.model, config.serve.keys_file) == ("/data/r/s", f"{home}/k")


def test_what_is_no_path_is_left_alone(tmp_path: Path) -> None:
    text = "~/a costs $DATA in {run.dir} $$"
    config = load(
        tmp_path,
        f"reasoning: {{instruction: '{text}', demonstrations: [{{question: '{text}', steps: "
        f"[{{text: '{text}'}}]}}]}}\nbuild: {{instruction: '{text}'}}\n"
        f"questions: {{columns: {{answer: '{text}'}}}}\n"
        "engine: {args: {a: '~/$DATA', b: ['{run.dir}/b']}}\nrun: {dir: /r}\n",
    )
    assert config.reasoning.instruction == config.build.instruction == text
    assert isinstance(config.reasoning.demonstrations, tuple)
    assert config.reasoning.demonstrations[0].question == text
    assert config.questions.columns.answer == text
    assert config.engine.args == {"a": "~/$DATA", "b": ["/r/b"]}


def test_a_secret_in_a_variable_of_another_name_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCESS", "user:pass")
    with pytest.raises(ConfigError, match="train: holds a token or a password") as caught:
        load(tmp_path, "questions: {train: 's3://$ACCESS@bucket/q.jsonl'}")
    assert "pass@" not in str(caught.value)


def test_a_written_run_file_is_read_as_the_same_settings(tmp_path: Path) -> None:
    config = load(
        tmp_path, "run: {dir: $$DATA/r}\ntrain: {model: a$$b}\nreasoning: {instruction: $DATA}"
    )
    assert (config.run.dir, config.train.model) == (str(Path.cwd() / "$DATA/r"), "a$b")
    text = run_file_text(config.model_dump(mode="json"))
    assert load(tmp_path, text) == config
    assert yaml.safe_load(text)["reasoning"]["instruction"] == "$DATA"
