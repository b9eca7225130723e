"""Models that bring code of their own are run only if hub.trust_remote_code says so.

transformers, vLLM and DeepSpeed's trainer load what lies in a folder, as a person would have it. What is on
the Hub is in `tests/models/test_hub.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

from steper_ray.errors import InputError
from steper_ray.models.loading import load_model_config, load_tokenizer
from steper_ray.models.settings import HubConfig
from tests.conftest import ROOT
from tests.hub_server import TOKEN
from tests.tiny_model import save_tiny_model

TRUSTED: Final = HubConfig(trust_remote_code=True)

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
    return save_tiny_model(tmp_path_factory.mktemp("plain"), hidden_size=64)


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
