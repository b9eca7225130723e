"""Which chains are kept and what examples they become, by hand."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from steper_ray.reasoning import ircot, react, self_ask
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Chain
from steper_ray.stepwise.select import (
    REJECTIONS,
    SelectConfig,
    explode,
    rejection,
    select,
    stage_of,
    surplus,
)
from tests.stepwise.conftest import CHAIN, PASSAGES, numbered, step

FIRST, SECOND, LAST = CHAIN.steps


def test_stages_of_chains_of_every_length() -> None:
    assert [stage_of(1, 1)] == ["agg"]
    assert [stage_of(s, 2) for s in (1, 2)] == ["init", "agg"]
    assert [stage_of(s, 4) for s in (1, 2, 3, 4)] == ["init", "exp", "exp", "agg"]


def test_a_chain_becomes_one_example_a_step() -> None:
    first, second, last = explode(CHAIN, ReasoningConfig(instruction="Go."))
    assert (first.id, first.chain_id, first.step, first.stage) == ("q1/1", "q1", 1, "init")
    assert (second.stage, last.stage) == ("exp", "agg")
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
        f"Question: {CHAIN.question}\nStep 1: Zalk Stumum presents Kek Bibro.\nStep 2:"
    )


def test_the_flag_of_a_forced_chain_is_in_the_prompt_and_not_in_the_target() -> None:
    steps = (FIRST, step("So the answer is: X."))
    last = explode(replace(CHAIN, steps=steps, stop_reason="forced"), ReasoningConfig())[-1]
    assert last.forced
    assert last.prompt.endswith("Step 2: So the answer is:")
    assert last.target == " X.\n"


@pytest.mark.parametrize(
    ("change", "settings", "reason"),
    [
        ({}, {}, None),
        ({"error": "the prompt is too long", "em": 0.0, "steps": ()}, {}, "error"),
        # The answer
        ({"em": 0.0, "f1": 0.8, "acc": 1.0}, {}, "wrong_answer"),
        ({"em": 0.0, "f1": 0.8, "acc": 1.0}, {"match": "contained"}, None),
        ({"em": 0.0, "f1": 1.0, "acc": 0.0}, {"match": "contained"}, "wrong_answer"),
        ({"em": 0.0, "f1": 0.8, "acc": 0.0}, {"match": "f1"}, None),
        ({"em": 0.0, "f1": 0.79, "acc": 0.0}, {"match": "f1"}, "wrong_answer"),
        ({"em": 0.0, "f1": 0.79, "acc": 0.0}, {"match": "f1", "min_f1": 0.5}, None),
        # The steps
        ({"steps": (step(" "), LAST)}, {}, "empty_step"),
        ({"stop_reason": "forced"}, {}, None),
        ({"stop_reason": "forced"}, {"keep_forced": False}, "forced"),
        ({"stop_reason": "nothing_new"}, {"keep_forced": False}, "forced"),
        ({"steps": (step("So the answer is: Neill.", "p3"), LAST)}, {}, "early_answer"),
        ({"steps": (FIRST, step("Zalk Stumum presents Kek Bibro!"), LAST)}, {}, "repeated_step"),
        (
            {"steps": (FIRST, FIRST, SECOND, LAST), "passages": (PASSAGES[0], *PASSAGES)},
            {"repeated_steps": True},
            None,
        ),
        ({"steps": (step("Zalk Bibro plays.", "p1"), SECOND, LAST)}, {}, "ungrounded"),
        ({"steps": (step("Zalk Bibro plays.", "p1"), SECOND, LAST)}, {"grounded": False}, None),
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


def test_every_reason_but_surplus_is_tested_above() -> None:
    (mark,) = test_every_reason_alone.pytestmark  # type: ignore[attr-defined]
    tested = {reason for _, _, reason in mark.args[1]}
    assert tested == {*REJECTIONS, None} - {"surplus"}


def test_the_first_reason_that_applies_is_the_one() -> None:
    faulty = replace(
        CHAIN,
        em=0.0,
        stop_reason="forced",
        steps=(step("So the answer is: Foo Bar."), step("So the answer is: Foo Bar.")),
    )
    config = SelectConfig(keep_forced=False, min_steps=9)
    reasons = []
    for mend in (
        {},
        {"em": 1.0},
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
def test_an_early_answer_is_what_the_framework_takes_for_one(
    framework: Any, asks: str, answers: str
) -> None:
    good = replace(CHAIN, steps=(step(asks, "p1"), step(answers, "p2")))
    assert rejection(good, SelectConfig(), framework) is None
    early = replace(CHAIN, steps=(step(answers, "p1"), step(asks, "p2")))
    assert rejection(early, SelectConfig(), framework) == "early_answer"


def test_balance_by_hand() -> None:
    kept = {f"a{n}": 2 for n in range(5)} | {f"b{n}": 3 for n in range(2)} | {"c": None}
    assert surplus(kept, SelectConfig()) == set()
    for share, left in ((1, {2: 1, 3: 1, None: 1}), (3, {2: 3, 3: 2, None: 1})):
        gone = surplus(kept, SelectConfig(per_hops=share))
        stay = [hops for chain_id, hops in kept.items() if chain_id not in gone]
        assert {hops: stay.count(hops) for hops in (2, 3, None)} == left
    equal = surplus(kept, SelectConfig(per_hops="equal"))
    assert len(equal) == 4 + 1 + 0
    assert surplus({}, SelectConfig(per_hops="equal")) == set()
    # Drawn by the ids and not by their order: `printf q7 | sha256sum` begins 0b, q4 11, q5 26, q0 34.
    ids = {f"q{n}": 2 for n in range(10)}
    assert set(ids) - surplus(ids, SelectConfig(per_hops=3)) == {"q7", "q4", "q5"}


def test_only_kept_chains_take_up_a_share() -> None:
    right = numbered(range(4), hops=2)
    wrong = numbered(range(4, 8), hops=2, em=0.0)
    verdicts = select([*wrong, *right], SelectConfig(per_hops=3), ircot)
    assert [verdicts[c.id] for c in wrong] == ["wrong_answer"] * 4
    assert sorted(str(verdicts[c.id]) for c in right) == ["None", "None", "None", "surplus"]


CHAINS = st.lists(
    st.builds(
        replace,
        st.just(CHAIN),
        id=st.integers(0, 999).map(str),
        hops=st.sampled_from([None, 2, 3, 4]),
        em=st.sampled_from([0.0, 1.0]),
        error=st.sampled_from([None, None, None, "too long"]),
        stop_reason=st.sampled_from(["answered", "forced"]),
        steps=st.lists(
            st.sampled_from([*CHAIN.steps, step("Foo Bar."), step(""), step("x", mean_logprob=None)]),
            min_size=1,
            max_size=4,
        ).map(tuple),
    ),
    max_size=30,
    unique_by=lambda chain: chain.id,
)  # fmt: skip
CONFIGS = st.builds(
    SelectConfig,
    keep_forced=st.booleans(),
    grounded=st.booleans(),
    repeated_steps=st.booleans(),
    min_logprob=st.sampled_from([None, -0.2]),
    min_steps=st.integers(1, 3),
    per_hops=st.sampled_from([None, 1, 2, 5, "equal"]),
)


@given(CHAINS, CONFIGS, st.randoms())
def test_the_verdicts_do_not_depend_on_the_order_of_chains(
    chains: list[Chain], config: SelectConfig, random: Any
) -> None:
    mixed = random.sample(chains, len(chains))
    verdicts = select(chains, config, ircot)
    assert select(mixed, config, ircot) == verdicts
    # Kept and rejected are all of them, and every reason has a name.
    assert set(verdicts) == {chain.id for chain in chains}
    assert set(verdicts.values()) <= {None, *REJECTIONS}
    kept = sum(reason is None for reason in verdicts.values())
    assert kept + sum(reason in REJECTIONS for reason in verdicts.values()) == len(chains)


@given(CHAINS, CONFIGS)
def test_balance_keeps_the_share_and_no_more(chains: list[Chain], config: SelectConfig) -> None:
    free = select(chains, config.model_copy(update={"per_hops": None}), ircot)
    verdicts = select(chains, config, ircot)
    assert all(verdicts[i] in (reason, "surplus") for i, reason in free.items())

    def kept(of: dict[str, str | None]) -> dict[int | None, int]:
        groups = [chain.hops for chain in chains if of[chain.id] is None]
        return {hops: groups.count(hops) for hops in groups}

    asked = config.per_hops
    if asked == "equal":
        asked = min(kept(free).values(), default=0)
    assert kept(verdicts) == {
        hops: count if asked is None else min(count, asked) for hops, count in kept(free).items()
    }


@given(st.dictionaries(st.text(min_size=1), st.sampled_from([None, 2, 3])), st.integers(1, 9))
def test_a_larger_share_keeps_what_a_smaller_one_kept(
    kept: dict[str, int | None], share: int
) -> None:
    few = set(kept) - surplus(kept, SelectConfig(per_hops=share))
    more = set(kept) - surplus(kept, SelectConfig(per_hops=share + 1))
    assert few <= more


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
