"""Outputs of chat models: what is read from them is what a person reads, with few requests.

`tests/data/model_outputs.jsonl` has 67 of them, each with what is to be read; an engine plays them back and
stops where a real one would.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

import pytest

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.reasoning.frameworks import FRAMEWORKS
from steper_ray.reasoning.frameworks.protocol import ParsedStep, Prompt
from steper_ray.reasoning.thinking import generate_step
from tests.conftest import ROOT
from tests.fakes import CountsWords, cut

LINES: Final = (ROOT / "tests/data/model_outputs.jsonl").read_text(encoding="utf-8").splitlines()
OUTPUTS: Final[list[dict[str, Any]]] = [json.loads(line) for line in LINES]
FURTHER: Final = {
    " So the answer is:\nParis": 1,
    " So the answer is: \n**Paris**": 1,
    "\n\nThe Eiffel Tower is in Paris. So the answer is: Paris.": 1,
    " The citation [12] says Paris [3]\nAction: Finish[Paris]\n": 1,
}
"""Output → requests it costs besides the first."""


class Recording(CountsWords):
    """Plays a model's whole reply, up to a stop text, and then from where the prompt has got to."""

    def __init__(self, reply: str) -> None:
        self.reply = reply
        self.requests = 0

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        self.requests += 1
        rest = self.reply
        for word in prompt.continued.split():
            rest = rest[rest.index(word) + len(word) :]
        if prompt.continued[-1:].isspace():
            rest = rest.lstrip()
        return Generation(cut(rest, stop), 1, 1)


def read(name: str, reply: str) -> tuple[ParsedStep, int]:
    """What the loop reads from a reply, and how many requests it took."""
    code, engine = FRAMEWORKS[name], Recording(reply)
    written = generate_step(
        engine,
        Prompt("Question: Where?\n", "Step 1:"),
        stop=code.STOPS,
        max_tokens=64,
        unfinished=partial(code.unfinished, forced=False),
    )
    return code.parse(asyncio.run(written).text, forced=False), engine.requests


def bare(answer: str | None) -> str | None:
    """As an answer `Paris`, `paris` and `Paris.` are one; the file says where a question mark may go."""
    return None if answer is None else answer.casefold().rstrip(".?")


@pytest.mark.parametrize("output", OUTPUTS, ids=lambda output: output["text"].strip()[:40])
def test_every_output_is_read_as_a_person_reads_it(output: dict[str, Any]) -> None:
    name, text = output["framework"], output["text"]
    for written in (read(name, text)[0], FRAMEWORKS[name].parse(text, forced=False)):
        assert bare(written.answer) == bare(output["read"]["answer"])
        if name == "ircot":
            assert written.query == written.rationale
        else:
            assert (written.query or None) == output["read"]["query"]
    assert read(name, text)[1] == 1 + FURTHER.get(text, 0)


def test_all_of_them_are_tested() -> None:
    assert len(OUTPUTS) == 67
    assert len(FURTHER.keys() & {output["text"] for output in OUTPUTS}) == len(FURTHER)


@pytest.mark.parametrize(
    ("name", "text", "rationale"),
    [
        ("ircot", "<think>I see.</think>\n\nIt is in Paris.\nMore.", "It is in Paris."),
        (
            "ircot",
            "<think>\nI see.\nOr not.\n</think>\n\nIt is in Paris.\nMore.",
            "It is in Paris.",
        ),
        ("ircot", "```\nIt is in Paris.\n```", "It is in Paris."),
        ("ircot", "\n**\nIt is in Paris.", "It is in Paris."),
        ("self_ask", "<think>\nOk.\n</think>\n\nYes.\nFollow up: Who?\n", "Yes.\nFollow up: Who?"),
        ("react", "<think>\nOk.\n</think>\n\nHm.\nAction: Search[x]\n", "Hm.\nAction: Search[x]"),
    ],
)
def test_empty_lines_are_skipped_behind_a_thought_too(name: str, text: str, rationale: str) -> None:
    assert read(name, text)[0].rationale == rationale


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_thought_that_comes_in_one_piece_costs_no_further_request(name: str) -> None:
    class Whole(Recording):
        async def generate(self, *_: Any, **__: Any) -> Generation:
            self.requests += 1
            return Generation(self.reply, 1, 1)

    engine = Whole("<think>\nOk.\n</think>\n\nIt is in Paris.")
    written = generate_step(engine, Prompt("", ""), stop=("\n",), max_tokens=64)
    assert FRAMEWORKS[name].parse(asyncio.run(written).text, forced=False).rationale == (
        "It is in Paris."
    )
    assert engine.requests == 1


@pytest.mark.parametrize("name", FRAMEWORKS)
@pytest.mark.parametrize("forced", [False, True])
@pytest.mark.parametrize(
    "piece",
    [
        *("so the answer is: ", "answer: ", "so the ", "\\boxed{", "答案", "Paris. please "),
        *("follow up: ", "follow ", "Who?\n", "action 1: search[", "action: ", "[", "(", "]\n"),
        *(". ", ".\n", "a.", "J. ", "**a ", "*a ", "> - ", '"', "\n", " ", "?", '"?', "1. "),
    ],
)
def test_no_text_takes_long(name: str, forced: bool, piece: str) -> None:
    text = (piece * 100_000)[:100_000]
    started = time.process_time()
    FRAMEWORKS[name].parse(text, forced=forced)
    FRAMEWORKS[name].unfinished(text, forced=forced)
    assert time.process_time() - started < 5


def test_an_ordinary_step_is_read_in_far_less_than_a_millisecond() -> None:
    started = time.process_time()
    for output in OUTPUTS * 10:
        FRAMEWORKS[output["framework"]].parse(output["text"], forced=False)
    assert (time.process_time() - started) / (10 * len(OUTPUTS)) < 1e-3
