"""Which chains are kept and what examples they become, by hand."""

from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from steper_ray.reasoning.frameworks import ircot, react, self_ask
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.choice import select
from steper_ray.selection.examples import step_examples
from steper_ray.selection.rejection import AMONG_OTHERS, REJECTIONS, rejection
from steper_ray.selection.settings import SelectConfig
from tests.samples import CHAIN, PASSAGES, step

FIRST, SECOND, LAST = CHAIN.steps


def test_a_chain_becomes_one_example_a_step() -> None:
    first, second, last = step_examples(CHAIN, ReasoningConfig(instruction="Go."))
    assert (first.id, first.chain_id, first.step, first.ability) == ("q1/1", "q1", 1, "init")
    assert (second.ability, last.ability) == ("exp", "agg")
    assert [e.passages for e in (first, second, last)] == [
        PASSAGES[:1],
        PASSAGES[:2],
        PASSAGES,
    ]
    assert [e.found for e in (first, second, last)] == [(1,), (1, 1), (1, 1, 1)]
    assert last.reasoning == (FIRST.rationale, SECOND.rationale)
    assert [e.target for e in (first, second, last)] == [
        f" {one.rationale}\n" for one in CHAIN.steps
    ]
    assert second.prompt == (
        "Go.\n\nTitle: Zalk Stumum\nText: Zalk Stumum presents Kek Bibro. It ran for a long season.\n\n"
        "Title: Kek Bibro\nText: In 1984 Kek Bibro praised Old Harbour. It owns seven trucks.\n\n"
        f"Question: {CHAIN.question}\nFact 1: Zalk Stumum presents Kek Bibro.\nFact 2:"
    )


def test_the_flag_of_a_forced_chain_is_in_the_prompt_and_not_in_the_target() -> None:
    steps = (FIRST, step("So the answer is: X."))
    last = step_examples(replace(CHAIN, steps=steps, stop_reason="forced"), ReasoningConfig())[-1]
    assert last.forced
    assert last.prompt.endswith("Fact 2: So the answer is:")
    assert last.target == " X.\n"


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({}, {}, None),
        ({"error": "the prompt is too long", "em": 0.0, "right": 0.0, "steps": ()}, {}, "error"),
        # The answer
        ({"em": 0.0, "right": 0.0, "f1": 0.8, "acc": 1.0}, {}, "wrong_answer"),
        ({"em": 0.0, "right": 0.0, "f1": 0.8, "acc": 1.0}, {"match": "contained"}, None),
        ({"em": 0.0, "right": 0.0, "f1": 1.0, "acc": 0.0}, {"match": "contained"}, "wrong_answer"),
        ({"em": 0.0, "right": 0.0, "f1": 0.8, "acc": 0.0}, {"match": "f1"}, None),
        ({"em": 0.0, "right": 0.0, "f1": 0.79, "acc": 0.0}, {"match": "f1"}, "wrong_answer"),
        ({"em": 0.0, "right": 0.0, "f1": 0.79, "acc": 0.0}, {"match": "f1", "min_f1": 0.5}, None),
        # The steps
        ({"steps": (step(" "), LAST)}, {}, "empty_step"),
        ({"steps": (replace(FIRST, finish_reason="length"), SECOND, LAST)}, {}, "cut_off"),
        ({"steps": (FIRST, SECOND, replace(LAST, finish_reason="length"))}, {}, "cut_off"),
        (
            {
                "steps": (FIRST, SECOND, replace(LAST, finish_reason="length")),
                "stop_reason": "forced",
            },
            {},
            "cut_off",
        ),
        (
            {"steps": (replace(FIRST, finish_reason="length"), SECOND, LAST)},
            {"keep_cut_off": True},
            None,
        ),
        ({"steps": (replace(step(" "), finish_reason="length"), LAST)}, {}, "empty_step"),
        (
            {
                "steps": (
                    replace(FIRST, finish_reason="stop"),
                    replace(SECOND, finish_reason="other"),
                    LAST,
                )
            },
            {},
            None,
        ),
        ({"stop_reason": "forced"}, {}, None),
        ({"stop_reason": "forced"}, {"keep_forced": False}, "forced"),
        ({"stop_reason": "nothing_new"}, {"keep_forced": False}, "forced"),
        ({"rationalized": True}, {}, None),
        ({"rationalized": True}, {"keep_rationalized": False}, "rationalized"),
        ({"steps": (step("So the answer is: Neill.", "p3"), LAST)}, {}, "early_answer"),
        ({"steps": (step("**Therefore, the answer is Neill**", "p3"), LAST)}, {}, "early_answer"),
        ({"steps": (step("It is so. Answer: Neill (the mayor of it)", "p3"), LAST)}, {}, "early_answer"),
        ({"steps": (FIRST, step("Zalk Stumum presents Kek Bibro!"), LAST)}, {}, "repeated_step"),
        (
            {"steps": (FIRST, FIRST, SECOND, LAST), "passages": (PASSAGES[0], *PASSAGES)},
            {"repeated_steps": True},
            None,
        ),
        ({"steps": (step("Identify the mayor of the town.", "p1"), LAST)}, {}, "no_fact"),
        ({"steps": (step("Identify the mayor of the town.", "p1"), SECOND, LAST)}, {}, None),
        ({"steps": (LAST,), "passages": PASSAGES[2:]}, {}, None),
        ({"steps": (step("He met Ann Wexley.", "p1"), SECOND, LAST)}, {}, "ungrounded"),
        ({"steps": (step("He met Ann Wexley.", "p1"), SECOND, LAST)}, {"grounded": False}, None),
        ({"steps": (step("Zalk Bibro plays.", "p1"), SECOND, LAST)}, {"grounded": True}, "ungrounded"),
        ({"steps": (step("Zalk Bibro plays.", "p1"), SECOND, LAST)}, {}, None),
        ({"steps": (step("It began in 1985.", "p1"), SECOND, LAST)}, {"grounded": True}, "ungrounded"),
        ({"steps": (step("It began in 1985.", "p1"), SECOND, LAST)}, {}, None),
        # The gold passages
        ({"supporting_ids": ("p1", "p9")}, {}, None),
        ({"supporting_ids": ("p1", "p9")}, {"min_support": 0.5}, None),
        ({"supporting_ids": ("p1", "p9")}, {"min_support": 0.51}, "unsupported"),
        ({"supporting_ids": ()}, {"min_support": 1.0}, None),
        # Confidence: the worst step has -0.5
        ({}, {"min_logprob": -0.5}, None),
        ({}, {"min_logprob": -0.49}, "low_confidence"),
        ({"steps": (FIRST, replace(SECOND, mean_logprob=None), LAST)}, {"min_logprob": -0.1}, None),
        ({"steps": tuple(replace(s, mean_logprob=None) for s in CHAIN.steps)}, {"min_logprob": 0.0}, None),
        # Lengths: three steps of 5, 7 and 11 words
        ({}, {"min_steps": 3, "max_steps": 3, "min_words": 5, "max_words": 11}, None),
        ({}, {"min_steps": 4}, "too_few_steps"),
        ({}, {"max_steps": 2}, "too_many_steps"),
        ({}, {"min_words": 6}, "short_step"),
        ({}, {"max_words": 10}, "long_step"),
    ],
)  # fmt: skip
def test_every_reason_alone(
    change: dict[str, Any], settings: dict[str, Any], reason: str | None
) -> None:
    chain = replace(CHAIN, **change)
    assert rejection(chain, SelectConfig(**settings), ircot) == reason
    assert select([chain], SelectConfig(**settings), ircot) == {"q1": reason}


def test_every_reason_that_a_chain_has_by_itself_is_tested_above() -> None:
    (mark,) = test_every_reason_alone.pytestmark
    tested = {reason for _, _, reason in mark.args[1]}
    assert tested == {*REJECTIONS, None} - {*AMONG_OTHERS, "no_query"}


def test_the_first_reason_that_applies_is_the_one() -> None:
    faulty = replace(
        CHAIN,
        em=0.0,
        right=0.0,
        stop_reason="forced",
        steps=(step("So the answer is: Foo Bar."), step("So the answer is: Foo Bar.")),
    )
    config = SelectConfig(keep_forced=False, min_steps=9)
    reasons = []
    for mend in (
        {},
        {"right": 1.0},
        {"stop_reason": "answered"},
        {"steps": (step("Foo Bar."), step("Foo Bar."))},
        {"steps": (step("Foo Bar."), step("Bar Foo."))},
        {"steps": (step("Kek Bibro.", "p1"),)},
    ):
        faulty = replace(faulty, **mend)
        reasons.append(rejection(faulty, config, ircot))
    assert reasons == [
        "wrong_answer",
        "forced",
        "early_answer",
        "repeated_step",
        "ungrounded",
        "too_few_steps",
    ]


@pytest.mark.parametrize(
    ("framework", "asks", "answers"),
    [
        (self_ask, "Yes.\nFollow up: Who is Kek Bibro?", "So the final answer is: Kek Bibro"),
        (react, "I look.\nAction: Search[Kek Bibro]", "I know.\nAction: Finish[Kek Bibro]"),
    ],
)
def test_answers_and_queries_are_what_the_framework_takes_for_such(
    framework: Any, asks: str, answers: str
) -> None:
    good = replace(CHAIN, steps=(step(asks, "p1"), step(answers, "p2")))
    assert rejection(good, SelectConfig(), framework) is None
    aimless = replace(CHAIN, steps=(step("Kek Bibro.", "p1"), step(answers, "p2")))
    assert rejection(aimless, SelectConfig(), framework) == "no_query"
    early = replace(CHAIN, steps=(step(answers, "p1"), step(asks, "p2")))
    assert rejection(early, SelectConfig(), framework) == "early_answer"


@pytest.mark.parametrize(
    "settings",
    [
        {"match": "exact"},
        {"min_f1": 0.0},
        {"min_f1": 1.1},
        {"min_support": -0.1},
        {"min_support": 1.1},
        {"min_logprob": 0.1},
        {"min_steps": 0},
        {"max_steps": 0},
        {"min_steps": 3, "max_steps": 2},
        {"min_words": 3, "max_words": 2},
        {"per_hops": 0},
        {"per_hops": "even"},
        {"grounding": True},
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SelectConfig(**settings)
