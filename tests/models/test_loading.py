"""Models that bring code of their own are run only if that is said; tokens stay in the environment.

transformers, vLLM and DeepSpeed's trainer load what lies in a folder, as a person would have it. What is on
the Hub is in `tests/test_hub.py`.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from steper_ray.chains.store import prepare_store
from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import ConfigError, InputError
from steper_ray.models.hub import use_hub
from steper_ray.models.loading import load_model_config, load_tokenizer
from steper_ray.models.settings import HubConfig
from steper_ray.pipeline.select import select_run
from steper_ray.reports.student_card import write_card
from steper_ray.run.config import RunConfig
from steper_ray.run.identity import record
from steper_ray.run.loading import load_config
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.metrics import MetricsWriter
from steper_ray.training.worker_spec import WorkerTask
from tests.conftest import ROOT
from tests.reports.test_student_card import CARD
from tests.samples import CHAIN, write

TRUSTED: Final = HubConfig(trust_remote_code=True)
TOKEN: Final = "hf_" + "NoRealTokenButAsLongAsOne" + "123456789"
CODE: Final = {
    "configuration_own.py": """
from transformers import Qwen3Config

class OwnConfig(Qwen3Config):
    model_type = "own_model"
""",
    "modeling_own.py": """
from transformers import Qwen3ForCausalLM
from .configuration_own import OwnConfig
from .naming import SIGN

class OwnForCausalLM(Qwen3ForCausalLM):
    config_class = OwnConfig
    sign = SIGN
""",
    "naming.py": 'SIGN = "this code ran"\n',
    "tokenization_own.py": """
from transformers import PreTrainedTokenizerFast

class OwnTokenizer(PreTrainedTokenizerFast):
    sign = "this code ran"
""",
}


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}, indent=2))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 of two layers with the toy tokenizer."""
    import torch

    from steper_ray.toy.pretrain import Recipe, make_model

    folder = tmp_path_factory.mktemp("plain")
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    recipe = Recipe(hidden_size=64, layers=2, steps=0, tokens=0, max_hops=0, lr=0.0)
    model = make_model(recipe, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def own(plain: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same weights behind configuration, model and tokenizer classes that lie beside them."""
    folder = tmp_path_factory.mktemp("own") / "model"
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, code in CODE.items():
        (folder / name).write_text(code)
    change(
        folder / "config.json",
        model_type="own_model",
        auto_map={
            "AutoConfig": "configuration_own.OwnConfig",
            "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
        },
    )
    change(
        folder / "tokenizer_config.json",
        tokenizer_class="OwnTokenizer",
        auto_map={"AutoTokenizer": [None, "tokenization_own.OwnTokenizer"]},
    )
    return folder


def refusal(model: Path) -> str:
    return (
        f"{model}: brings code of its own, which is not run unasked; read it, then set "
        "hub.trust_remote_code: true"
    )


def student_of(folder: Path, hub: HubConfig) -> Any:
    import torch

    from steper_ray.training.student import load_student

    return load_student(
        str(folder), dtype=torch.float32, gradient_checkpointing=False, packed=False, hub=hub
    )


@pytest.mark.parametrize(
    "load",
    [
        lambda folder: load_tokenizer(str(folder)),
        lambda folder: load_model_config(str(folder)),
        lambda folder: student_of(folder, HubConfig()),
    ],
    ids=["tokenizer", "config", "student"],
)
def test_code_of_a_model_is_not_run_unasked(own: Path, load: Any) -> None:
    with pytest.raises(InputError) as refused:
        load(own)
    assert str(refused.value) == refusal(own)


def test_a_student_with_code_of_its_own_is_exported_with_it(own: Path, tmp_path: Path) -> None:
    import torch

    from steper_ray.training.student import export_student, gather_weights

    assert load_tokenizer(str(own), TRUSTED).sign == "this code ran"
    student = student_of(own, TRUSTED)
    assert student.model.sign == "this code ran"
    with torch.no_grad():
        student.model.get_output_embeddings().weight.mul_(2)
    folder = tmp_path / "student"
    export_student(
        gather_weights(student.model, keep=True),
        student.model.generation_config,
        str(own),
        folder,
        {},
        TRUSTED,
    )
    # In a process of its own, with the base student out of reach.
    script = """
import sys
from pathlib import Path
from steper_ray.errors import InputError
from steper_ray.models.loading import load_tokenizer
from steper_ray.models.settings import HubConfig
from steper_ray.training.student import load_student
import torch
for trust in (False, True):
    hub = HubConfig(trust_remote_code=trust)
    try:
        print(load_tokenizer(sys.argv[1], hub).sign)
        model = load_student(
            sys.argv[1], dtype=torch.float32, gradient_checkpointing=False, packed=False, hub=hub
        ).model
        print(model.sign, Path(sys.modules[type(model).__module__].__file__).parent.name)
        torch.save(model.state_dict(), sys.argv[2])
    except InputError as error:
        print(error)
"""
    away = own.rename(own.with_name("away"))
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path / "loaded.pt")],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
    )
    away.rename(own)
    assert done.returncode == 0, done.stderr
    refused, tokenizer, model = done.stdout.splitlines()
    assert refused == refusal(folder)
    assert tokenizer == "this code ran"
    assert model.startswith("this code ran")
    loaded = torch.load(tmp_path / "loaded.pt")
    for name, weight in student.model.state_dict().items():
        assert torch.equal(weight, loaded[name]), name
    for name, code in CODE.items():
        assert (folder / name).read_text() == code


def test_code_that_is_run_is_trained_on_separate_examples(own: Path, plain: Path) -> None:
    from steper_ray.training.attention import packing_obstacle

    assert packing_obstacle(load_model_config(str(own), TRUSTED)) == "it runs code of its own"
    assert packing_obstacle(load_model_config(str(plain), TRUSTED)) is None


def test_code_that_is_not_needed_is_left_alone(plain: Path, tmp_path: Path) -> None:
    """transformers has a model of this type itself, and takes that one unless it is told otherwise."""
    from transformers import AutoModelForCausalLM

    from steper_ray.training.attention import packing_obstacle
    from steper_ray.training.student import export_student, gather_weights

    folder = tmp_path / "known"
    folder.mkdir()
    for file in plain.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    for name, code in CODE.items():
        (folder / name).write_text(code.replace("own_model", "qwen3"))
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"})
    config = load_model_config(str(folder))
    assert packing_obstacle(config) is None
    assert not hasattr(student_of(folder, HubConfig()).model, "sign")
    assert packing_obstacle(load_model_config(str(folder), TRUSTED)) is not None
    student = student_of(folder, HubConfig()).model
    out = tmp_path / "student"
    weights = gather_weights(student, keep=True)
    export_student(weights, student.generation_config, str(folder), out, {})
    assert "auto_map" not in json.loads((out / "config.json").read_text())
    assert type(AutoModelForCausalLM.from_pretrained(out)).__name__ == "Qwen3ForCausalLM"


def test_code_that_lacks_a_package_is_named(own: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lacking"
    folder.mkdir()
    for file in own.iterdir():
        (folder / file.name).write_bytes(file.read_bytes() if file.is_file() else b"")
    (folder / "configuration_own.py").write_text("import a_package_that_is_not_there\n")
    with pytest.raises(InputError) as refused:
        load_model_config(str(folder), TRUSTED)
    assert str(refused.value).startswith(f"{folder}: the code it brings cannot be run (")
    assert "a_package_that_is_not_there" in str(refused.value)


@pytest.mark.engine
def test_vllm_runs_code_only_if_that_is_said_and_prints_no_token(own: Path, tmp_path: Path) -> None:
    """The model itself is vLLM's own Qwen3; the configuration and the tokenizer come with the folder."""
    script = """
import asyncio, sys
from steper_ray.errors import InputError
from steper_ray.models.settings import HubConfig
from steper_ray.engines.settings import EngineConfig
from steper_ray.engines.vllm_engine import VLLMEngine
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import ReasoningConfig

async def written(hub):
    config = EngineConfig(args={"max_model_len": 512, "enforce_eager": True})
    engine = VLLMEngine(sys.argv[1], config, ReasoningConfig(max_prompt_tokens=256, max_step_tokens=8), hub)
    text = await engine.generate(Prompt("A question", ""), stop=["\\n"], max_tokens=4)
    engine.shutdown()
    return f"wrote {text.generated_tokens} tokens"

for trust in (False, True):
    hub = HubConfig(trust_remote_code=trust, token_env="MY_TOKEN")
    try:
        print(asyncio.run(written(hub)))
    except InputError as error:
        print(error)
"""
    environment = {"PATH": os.environ["PATH"], "HF_HOME": str(tmp_path), "MY_TOKEN": TOKEN}
    done = subprocess.run(
        [sys.executable, "-c", script, str(own)],
        cwd=ROOT,
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert refusal(own) in lines
    assert "wrote 4 tokens" in lines
    assert TOKEN not in done.stdout + done.stderr


def test_the_environment_is_set_for_all_that_load(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets.config
    from huggingface_hub import constants, get_token, is_offline_mode

    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "MY_TOKEN"):
        monkeypatch.setenv(name, "")
    for module in (constants, datasets.config):
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    use_hub(HubConfig(token_env="MY_TOKEN"))
    assert os.environ["HF_TOKEN"] == ""
    assert not is_offline_mode()
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    use_hub(HubConfig(token_env="MY_TOKEN", offline=True))
    assert get_token() == TOKEN
    assert is_offline_mode(), "also where huggingface_hub was imported before"
    assert datasets.config.HF_HUB_OFFLINE
    assert os.environ["HF_HUB_OFFLINE"] == "1"


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


def test_nothing_that_is_written_has_a_token(
    tmp_path: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cards, statistics, the settings of chains, `steper.json`, metrics and what trackers keep."""
    from steper_ray.training.student import export_student, gather_weights

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
    prepare_store(run.folder.chains, record("chains", run.model_dump(mode="json")), fresh=True)
    write(run.folder.chains, [CHAIN])
    select_run(run, {"seconds": 1.0, "tokens_per_second": 1.0, "versions": {}})
    student = student_of(plain, run.hub).model
    weights = gather_weights(student, keep=True)
    export_student(weights, student.generation_config, str(plain), run.folder.student, {}, run.hub)
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
