"""What engines say about the text that they wrote, as it is read."""

from types import SimpleNamespace
from typing import Any

import pytest

from steper_ray.engines.replies import finish_reason
from steper_ray.engines.vllm_engine import read_output
from steper_ray.errors import RowError


def output(text: str = " One.", **completion: Any) -> Any:
    """The last output of a request as vLLM has it."""
    known = {"token_ids": [1, 2, 3, 4], "cumulative_logprob": -2.0, "finish_reason": "stop"}
    written = SimpleNamespace(**{"text": text, **known, **completion})
    return SimpleNamespace(outputs=[written], prompt_token_ids=[7, 8], num_cached_tokens=1)


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("eos_token", "stop"),
        ("length", "length"),
        ("MAX_TOKENS", "length"),
        ("tool_calls", "other"),
        ("repetition", "other"),
        ("", None),
        (None, None),
        (3, None),
    ],
)
def test_an_engines_word_for_why_it_stopped(word: Any, reason: str | None) -> None:
    assert finish_reason(word) == reason


def test_an_output_of_vllm() -> None:
    read = read_output(output())
    assert (read.text, read.prompt_tokens, read.generated_tokens) == (" One.", 2, 4)
    assert (read.mean_logprob, read.cached_tokens, read.finish_reason) == (-0.5, 1, "stop")
    assert read_output(output(finish_reason="length")).finish_reason == "length"
    without = read_output(output(cumulative_logprob=None))
    assert without.mean_logprob is None
    impossible = read_output(output(cumulative_logprob=float("-inf")))
    assert impossible.mean_logprob == -9999.0
    long = read_output(output(cumulative_logprob=-12_000.0, token_ids=[1] * 4_000))
    assert long.mean_logprob == -3.0
    assert read_output(output("", token_ids=[2])).text == ""  # an empty step is one


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"cumulative_logprob": float("nan")}, "a log-probability is nan"),
        ({"text": " One\ud83d"}, "half a character"),
    ],
)
def test_what_cannot_be_a_step_of_vllm_is_an_error_of_its_question(
    given: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RowError, match=reason):
        read_output(output(**given))


@pytest.mark.parametrize("word", ["abort", "error"])
def test_a_request_that_vllm_gave_up_is_no_step(word: str) -> None:
    with pytest.raises(RowError, match=rf"gave the request up \({word}\)"):
        read_output(output(finish_reason=word))
