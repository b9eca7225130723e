"""What a model's tokenizer or template makes impossible is said before vLLM starts."""

from copy import deepcopy
from pathlib import Path

import pytest

from steper_ray.engines.settings import EngineConfig
from steper_ray.engines.vllm_engine import VLLMEngine, load_encoder
from steper_ray.errors import InputError
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import ReasoningConfig
from tests.tokenizer_families import family


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with a tokenizer, whose template takes a user's turn only."""
    tokenizer = deepcopy(family("qwen2.5"))
    tokenizer.chat_template = "{{ raise_exception('only a question') }}{{ messages[0].content }}"
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_template_is_refused_before_the_engine_starts(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: EngineConfig) -> None:
        raise AssertionError("started")

    monkeypatch.setattr("steper_ray.engines.vllm_engine.prepare_process", start)
    with pytest.raises(
        InputError, match=r"reasoning\.chat: .*\(only a question\); set it to false"
    ):
        VLLMEngine(str(model), EngineConfig(), ReasoningConfig())
    with pytest.raises(AssertionError, match="started"):
        VLLMEngine(str(model), EngineConfig(), ReasoningConfig(chat=False))


def test_the_tokenizer_is_the_models_or_the_one_that_args_name(model: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    family("llama3").save_pretrained(other)
    prompt = Prompt("Go.\n", "Step 1:")
    named = load_encoder(
        str(model), EngineConfig(args={"tokenizer": str(other)}), ReasoningConfig()
    )
    assert named.text(prompt).startswith("<|begin_of_text|>")
    own = load_encoder(str(model), EngineConfig(), ReasoningConfig(chat=False))
    assert own.text(prompt) == prompt.text
