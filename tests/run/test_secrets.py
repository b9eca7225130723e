"""No secret in a run file is accepted or repeated, and no token or local path is written anywhere."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from steper_ray.chains.store import prepare_store
from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import ConfigError
from steper_ray.models.hub import use_hub
from steper_ray.pipeline.select import select_run
from steper_ray.reports.student_card import (
    write_card,
)
from steper_ray.run.config import RunConfig
from steper_ray.run.identity import record
from steper_ray.run.loading import load_config
from steper_ray.run.secrets import is_secret, public_name, public_settings
from steper_ray.training.metrics import MetricsWriter
from steper_ray.training.worker_spec import WorkerTask
from tests.reports.test_student_card import CARD
from tests.samples import CHAIN, write
from tests.tiny_model import save_tiny_model

TOKEN: Final = "hf_" + "NoRealTokenButAsLongAsOne" + "123456789"


@pytest.mark.parametrize(
    ("name", "public"),
    [
        ("Some-Org/name", "Some-Org/name"),
        ("gpt2", "gpt2"),
        ("/", "local folder"),
        ("a\\b\\c", "c"),
        ("/a/b@c", "b@c"),
        ("https://user:pass@host", "host"),
        ("bf16", "bf16"),
    ],
)
def test_public_names(name: str, public: str) -> None:
    assert public_name(name) == public


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("max_prompt_tokens", 4096), ("micro_batch_tokens", 16384), ("tokens_per_second", 1.5)),
        *(("tokens", None), ("bucket_tokens", [512, 1024]), ("tokenizer", "toy")),
        *(("passages_per_step", 4), ("num_to_keep", 2), ("lr", 1e-5), ("model", "a/b")),
    ],
)
def test_honest_settings_stay(name: str, value: Any) -> None:
    assert not is_secret(name, value)
    assert public_settings({"outer": {name: value}}) == {"outer": {name: value}}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("token", "x"),
            ("hf_token", None),
            ("HF_TOKEN", "x"),
            ("hubToken", "x"),
            ("token", 1234),
        ),
        *(("api_key", "x"), ("apikey", "x"), ("keys", ["x"]), ("password", 1234), ("passwd", "x")),
        *(("client_secret", "x"), ("secrets", {"a": 1}), ("credentials", "x")),
        *(("hub_tokens", "x"), ("hub_tokens", ["x", 1]), ("tokens_key", 1), ("tokenizer_key", "x")),
    ],
)
def test_secrets_go(name: str, value: Any) -> None:
    assert is_secret(name, value)
    settings = {"lr": 1.0, name: value, "inner": [{name: value, "kept": 1}]}
    assert public_settings(settings) == {"lr": 1.0, "inner": [{"kept": 1}]}


@pytest.mark.parametrize(
    ("setting", "place"),
    [
        (f"hub: {{token_env: {TOKEN}}}", "hub.token_env"),
        (f"hub: {{token: {TOKEN}}}", "hub.token"),
        (f"engine: {{args: {{hf_token: {TOKEN}}}}}", "engine.args.hf_token"),
        (f"engine: {{args: {{a: [1, {{b: {TOKEN}}}]}}}}", "engine.args.a.1.b"),
        (f"train: {{model: 'https://{TOKEN}@huggingface.co/a/b'}}", "train.model"),
        (
            f"build: {{endpoint: {{base_url: 'https://me:{TOKEN}@host/v1'}}}}",
            "build.endpoint.base_url",
        ),
        ("build: {endpoint: {base_url: 'https://me:pw@host/v1'}}", "build.endpoint.base_url"),
        (
            f"build: {{endpoint: {{base_url: 'h://a/v1?api-key={TOKEN}'}}}}",
            "build.endpoint.base_url",
        ),
        ("build: {endpoint: {api_key_env: sk-abcdefghij0123456789}}", "build.endpoint.api_key_env"),
        ("questions: {train: 's3://key:secret@bucket/a'}", "questions.train"),
        (
            "build: {ensemble: [{teacher: a/b}, {teacher: 'http://:pw@h'}]}",
            "build.ensemble.1.teacher",
        ),
    ],
)
def test_a_secret_in_a_run_file_is_refused_and_not_repeated(
    tmp_path: Path, setting: str, place: str
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(setting)
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert str(refused.value).startswith(f"{file}: {place}: holds a token or a password")
    assert str(refused.value).endswith("into hub.token_env or an endpoint's api_key_env")
    for secret in (TOKEN, ":pw@", "sk-", ":secret@"):
        assert secret not in str(refused.value)
    section, _, value = setting.partition(": ")
    empty = tmp_path / "empty.yaml"
    empty.touch()
    with pytest.raises(ConfigError, match="holds a token or a password") as refused:
        load_config(empty, [f"{section}.x={value}"])
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        (
            "hub: {token_env: hf_short}",
            "hub.token_env: must name an environment variable that holds the key or token, not be one",
        ),
        (
            "build: {endpoint: {base_url: 'http://h/v1', api_key_env: sk-short}}",
            (
                "build.endpoint.api_key_env: must name an environment variable that holds the key or "
                "token, not be one"
            ),
        ),
        (
            "engine: {args: {hf_token: true}}",
            (
                "engine.args: hf_token is not for the run file; put the token into the environment "
                "variable that hub.token_env names"
            ),
        ),
        (
            "engine: {args: {trust_remote_code: true}}",
            (
                "engine.args: set hub.trust_remote_code instead of trust_remote_code: it holds for "
                "tokenizers and training too"
            ),
        ),
    ],
)
def test_other_ways_of_saying_it_are_refused(tmp_path: Path, setting: str, said: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(setting)
    with pytest.raises(ConfigError) as refused:
        load_config(file)
    assert str(refused.value) == f"{file}: {said}"


@pytest.mark.parametrize(
    "value",
    [
        "hf:hotpotqa/hotpot_qa:distractor:train",
        "/models/hf_models/Llama-3.1-8B-Instruct",
        "sk-learn/bert",
        "https://host:8000/v1",
        "s3://bucket/a?region=eu-west-1&endpoint_override=http://h:9000",
        "abfss://container@account.dfs.core.windows.net/a",
    ],
)
def test_what_is_no_secret_is_not_taken_for_one(tmp_path: Path, value: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps({"questions": {"train": value}}))
    assert load_config(file).questions.train == value


def export_untrained_student(run: RunConfig, base: Path) -> None:
    """Write the base model as a run's student, the way training does."""
    import torch

    from steper_ray.training.student import export_student, gather_weights, load_student

    student = load_student(
        str(base), dtype=torch.float32, gradient_checkpointing=False, packed=False, hub=run.hub
    ).model
    weights = gather_weights(student, keep=True)
    export_student(weights, student.generation_config, str(base), run.folder.student, {}, run.hub)


def test_nothing_that_is_written_has_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards, statistics, the settings of chains, `steper.json`, metrics and what trackers keep."""
    for name in ("MY_TOKEN", "HF_TOKEN", "OPENAI_API_KEY"):
        monkeypatch.setenv(name, TOKEN)
    monkeypatch.setenv("WANDB_MODE", "offline")
    hub = {"token_env": "MY_TOKEN", "trust_remote_code": True}
    endpoint = {"base_url": "http://host/v1", "api_key_env": "MY_TOKEN"}
    run = RunConfig.model_validate(
        {
            "run": {"dir": str(tmp_path / "run")},
            "hub": hub,
            "build": {"teacher": "a/b", "endpoint": endpoint},
        }
    )
    use_hub(run.hub)
    assert os.environ["HF_TOKEN"] == TOKEN
    write(run.folder.chains, [CHAIN])
    made_with = {**run.model_dump(mode="json"), "task": run.questions.task}
    prepare_store(run.folder.chains, record("chains", made_with), fresh=True)
    write(run.folder.chains, [CHAIN])
    select_run(run, {"seconds": 1.0, "tokens_per_second": 1.0, "versions": {}})
    export_untrained_student(run, save_tiny_model(tmp_path / "tiny", hidden_size=64))
    write_card(run.folder.student, replace(CARD, settings=run.model_dump(mode="json")))
    MetricsWriter(
        tmp_path / "run" / "training",
        0,
        trackers=("tensorboard", "mlflow", "wandb"),
        run="a",
        settings=run.train.model_dump(mode="json"),
    ).close()
    task = WorkerTask(
        train=run.train,
        stepwise_files=(),
        training_dir="",
        seed=0,
        reasoning=run.reasoning,
        corpus_version="",
        hub=run.hub,
    )
    (tmp_path / "task.txt").write_text(f"{task} {run!r} {EngineConfig()!r}")
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert {"stats.json", "README.md", "steper.json", "meta.yaml"} <= {file.name for file in files}
    assert [file for file in files if TOKEN.encode() in file.read_bytes()] == []
