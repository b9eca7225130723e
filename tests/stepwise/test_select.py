"""Which chains are kept and what examples they become, by hand."""

from dataclasses import replace

import pytest

from steper_ray.reasoning.ircot import render_prompt
from steper_ray.schema import Chain, Passage, Step
from steper_ray.stepwise.select import SelectConfig, explode, rejection, stage_of

P = [Passage(name, name, name) for name in "abc"]


def step(rationale: str, *ids: str) -> Step:
    return Step("query", ids, rationale, -0.1, 10, 5)


CHAIN = Chain(
    id="q1",
    question_id="q1",
    question="Who?",
    gold_answers=("X",),
    hops=3,
    passages=tuple(P),
    steps=(step("One.", "a", "b"), step("Two.", "c"), step("Three. So the answer is: X.")),
    answer="X",
    stop_reason="answered",
    em=1.0,
    f1=1.0,
    acc=1.0,
    model="teacher",
    corpus_version="v",
)


def test_stages_of_chains_of_every_length() -> None:
    assert [stage_of(1, 1)] == ["agg"]
    assert [stage_of(s, 2) for s in (1, 2)] == ["init", "agg"]
    assert [stage_of(s, 4) for s in (1, 2, 3, 4)] == ["init", "exp", "exp", "agg"]


def test_a_chain_becomes_one_example_a_step() -> None:
    first, second, last = explode(CHAIN, "Go.")
    assert (first.id, first.stage, first.passages, first.reasoning) == (
        "q1/1",
        "init",
        (P[0], P[1]),
        (),
    )
    assert (second.stage, second.passages, second.reasoning) == ("exp", tuple(P), ("One.",))
    assert (last.stage, last.passages, last.reasoning) == ("agg", tuple(P), ("One.", "Two."))
    assert [e.target for e in (first, second, last)] == [
        " One.\n",
        " Two.\n",
        " Three. So the answer is: X.\n",
    ]
    assert second.prompt == render_prompt("Who?", P, ["One."], instruction="Go.")


def test_the_flag_of_a_forced_chain_is_in_the_prompt_and_not_in_the_target() -> None:
    steps = (CHAIN.steps[0], step("So the answer is: X."))
    last = explode(replace(CHAIN, steps=steps, stop_reason="forced"), "Go.")[-1]
    assert last.forced
    assert last.prompt.endswith("Step 2: So the answer is:")
    assert last.target == " X.\n"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"em": 0.0}, "wrong_answer"),
        ({"error": "too long", "em": 0.0}, "error"),
        ({"steps": (step(""), step("So the answer is: X."))}, "empty_step"),
        ({"stop_reason": "forced"}, "forced"),
    ],
)
def test_rejections(change: dict[str, object], reason: str | None) -> None:
    chain = replace(CHAIN, **change)  # type: ignore[arg-type]
    assert rejection(chain, SelectConfig(keep_forced=False)) == reason
    if reason == "forced":
        assert rejection(chain, SelectConfig()) is None
