"""Thoughts of models, by hand: where they stand, and what is asked where they are not finished."""

import asyncio
from typing import Any

import pytest

from steper_ray.engines.protocol import Generation
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.thinking import (
    cut_at_stop,
    generate_step,
    joined_thoughts,
    split_thought,
)
from steper_ray.schema import FinishReason
from tests.fakes import ScriptedEngine


@pytest.mark.parametrize(
    ("text", "thought", "said", "unfinished"),
    [
        (" One.", None, " One.", False),
        ("", None, "", False),
        ("<think>a\nb</think>\n One.", "a\nb", "\n One.", False),
        ("<think></think> One.", "", " One.", False),
        ("a\nb</think> One.", "a\nb", " One.", False),
        (" One. <think>a</think>Two.", "a", " One. Two.", False),
        ("<think>a</think>One. <think>b</think>", "ab", "One. ", False),
        ("<think>a", "a", "", True),
        (" One. <think>a", "a", " One. ", True),
        ("<think>", "", "", True),
        ("<think>a<think>b</think>c</think> One.", "abc", " One.", False),
        ("a < b and b > think", None, "a < b and b > think", False),
    ],
)
def test_a_thought_and_what_is_said(text: str, thought: Any, said: str, unfinished: bool) -> None:
    assert split_thought(text) == (thought, said, unfinished)


def test_thoughts_are_joined_and_nothing_is_no_thought() -> None:
    assert joined_thoughts(" a\n", None, "\n\n", "b ") == "a\nb"
    assert joined_thoughts(None, "", " \n") is None


def test_the_first_stop_text_cuts_but_not_at_the_beginning() -> None:
    assert cut_at_stop(" One.\nTwo.", ("\n",)) == (" One.", True)
    assert cut_at_stop("\n\n One.\nTwo.", ("\n",)) == ("\n\n One.", True)
    assert cut_at_stop(" A?\nB]\n", ("]\n", "?\n")) == (" A", True)
    assert cut_at_stop(" One.", ("\n",)) == (" One.", False)
    assert cut_at_stop("\n", ("\n",)) == ("\n", False)


def step(*texts: str, finish_reason: FinishReason | None = None) -> tuple[Generation, list[str]]:
    """What comes of these texts, and the prompts that they were asked for with."""
    engine = ScriptedEngine(*texts, finish_reason=finish_reason)
    done = asyncio.run(generate_step(engine, Prompt("P:", ""), stop=("\n",), max_tokens=9))
    assert not engine.texts
    return done, engine.prompts


def test_a_thought_on_one_line_costs_no_request() -> None:
    for text in (
        "<think>a</think> One.",
        "a</think> One.",
        " One.<think>a</think>",
        " One.<think>a",
    ):
        done, prompts = step(text)
        assert (done.text.strip(), done.thought, prompts) == ("One.", "a", ["P:"])


def test_a_thought_that_has_nothing_after_it_is_gone_on_from() -> None:
    done, prompts = step("<think>a</think>", " One.")
    assert (done.text, done.thought) == (" One.", "a")
    assert prompts == ["P:", "P:<think>a</think>\n\n"]
    done, prompts = step("a</think>", " One.")
    assert (done.text, done.thought) == (" One.", "a")
    assert prompts == ["P:", "P:a</think>\n\n"]


def test_a_thought_that_never_ends_is_closed() -> None:
    done, prompts = step("<think>a", "b", " One", finish_reason="length")
    assert (done.text, done.thought, done.finish_reason) == (" One", "ab", "length")
    # cut off within a line, it goes on within it
    assert prompts == ["P:", "P:<think>a", "P:<think>ab</think>\n\n"]
    assert (done.generated_tokens, done.logprob_sum, done.mean_logprob) == (12, -6.0, -0.5)


def test_a_second_thought_after_the_first_is_no_step() -> None:
    done, _ = step("<think>a</think>", "<think>b")
    assert (done.text, done.thought) == ("", "ab")


def test_without_a_thought_there_is_none() -> None:
    done, _ = step(" One.", finish_reason="stop")
    assert (done.text, done.thought, done.finish_reason) == (" One.", None, "stop")
