"""What is said about a value that may be of several types."""

from pathlib import Path

import pytest

from steper_ray.errors import ConfigError
from steper_ray.run.loading import load_config


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # None of the types: all of them are named
        (
            "select: {grounded: Certain}",
            "select.grounded: expected true or false or 'certain', got 'Certain'",
        ),
        ("select: {grounded: 5}", "select.grounded: expected true or false or 'certain', got 5"),
        ("corpus: {passages: {a: b}}", "corpus.passages: expected text or a list"),
        (
            "reasoning: {demonstrations: {a: b}}",
            "reasoning.demonstrations: expected text or a list",
        ),
        (
            "train: {lora: {target_modules: 5}}",
            "train.lora.target_modules: expected a list or 'all-linear', got '5'",
        ),
        # One of the types: what is wrong inside
        ("corpus: {passages: [a, 5.5, b, {}]}", "corpus.passages.3: expected text"),
        ("corpus: {passages: [a, [b]]}", "corpus.passages.1: expected text, got ['b']"),
        (
            "train: {lora: {target_modules: [q_proj, {a: b}]}}",
            "train.lora.target_modules.1: expected text",
        ),
        (
            "reasoning: {demonstrations: [{question: q, steps: [{text: t, txt: u}]}]}",
            "reasoning.demonstrations.0.steps.0.txt: unknown key; did you mean text?",
        ),
        (
            "reasoning: {demonstrations: [{question: q, steps: [{}]}]}",
            "reasoning.demonstrations.0.steps.0.text: field required",
        ),
        (
            "reasoning: {demonstrations: [q]}",
            "reasoning.demonstrations.0: expected a section with keys (question, steps), got 'q'",
        ),
        # Of the right type, and wrong
        ("select: {min_f1: 2}", "select.min_f1: must be less than or equal to 1, got 2"),
        ("select: {match: exact}", "select.match: must be 'right', 'em', 'f1' or 'contained'"),
        ("serve: {keys_env: a-b}", "serve.keys_env: must name an environment variable"),
    ],
)
def test_a_value_of_several_types(tmp_path: Path, text: str, reason: str) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(file)
    assert str(caught.value).startswith(f"{file}: {reason}")
