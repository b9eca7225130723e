import math
from typing import Any

import pytest

from steper_ray.errors import InputError
from steper_ray.evaluation.summary import summarize, wilson_interval


def row(
    em: float,
    f1: float,
    *,
    hops: int | None = 2,
    steps: int = 2,
    stop: str = "answered",
    error: str | None = None,
) -> dict[str, Any]:
    step = {
        "passage_ids": ("p1",),
        "search_seconds": 0.25,
        "generate_seconds": 0.5,
        "prompt_tokens": 100,
        "generated_tokens": 20,
    }
    return {
        "hops": hops,
        "steps": [step] * steps,
        "supporting_ids": (),
        "gold_answers": ["Rome"],
        "answer": "Rome" if em else "Milan",
        "stop_reason": stop,
        "em": em,
        "f1": f1,
        "acc": em,
        "error": error,
    }


def test_means_over_all_chains() -> None:
    chains = [
        row(1.0, 1.0, steps=2),
        row(0.0, 0.5, steps=4, stop="forced"),
        row(0.0, 0.0, hops=3, steps=3),
        row(1.0, 1.0, hops=None, steps=1),
    ]
    summary = summarize(chains)
    overall = summary.overall
    assert (overall.questions, overall.errors) == (4, 0)
    assert (overall.em, overall.f1, overall.acc) == (0.5, 0.625, 0.5)
    assert overall.acc_substring == 0.5
    assert overall.forced == 0.25
    # 10 steps over 4 questions, each 0.75 s, 100 tokens read and 20 written
    assert overall.steps == 2.5
    assert overall.seconds == pytest.approx(1.875)
    assert (overall.prompt_tokens, overall.generated_tokens) == (250, 50)
    assert list(summary.hops) == ["2", "3", "unknown"]
    assert (summary.hops["2"].questions, summary.hops["2"].em, summary.hops["2"].f1) == (
        2,
        0.5,
        0.75,
    )
    assert (summary.hops["3"].em, summary.hops["3"].steps) == (0.0, 3.0)
    assert summary.hops["unknown"].em == 1.0


def test_an_error_counts_as_wrong_and_costs_nothing() -> None:
    # An empty answer equals a gold answer that is only an article; the error still makes it wrong.
    failed = row(1.0, 1.0, steps=0, error="engine died")
    overall = summarize([row(1.0, 1.0, steps=2), failed]).overall
    assert (overall.questions, overall.errors, overall.produced) == (2, 1, 1)
    assert (overall.em, overall.f1, overall.acc) == (0.5, 0.5, 0.5)
    assert (overall.steps, overall.seconds, overall.prompt_tokens) == (2.0, 1.5, 200.0)


def test_gold_passages_found_by_each_step_and_by_hops() -> None:
    def searched(*searches: tuple[str, ...], gold: tuple[str, ...], **named: Any) -> dict[str, Any]:
        chain = row(0.0, 0.0, steps=len(searches), **named)
        steps = [{**chain["steps"][0], "passage_ids": ids} for ids in searches] if searches else []
        return {**chain, "steps": steps, "supporting_ids": gold}

    chains = [
        searched(("a", "x"), ("b",), gold=("a", "b")),  # 1/2, 1, and stays so
        searched(("y",), ("z",), ("c",), gold=("a", "c"), hops=3),  # 0, 0, 1/2
        searched(("a",), gold=("a", "b", "c", "d")),  # 1/4, and stays so
        searched(("a",), gold=()),
        searched(gold=("a",), error="engine died"),
    ]
    summary = summarize(chains)
    assert summary.overall.supported == 3
    assert summary.overall.recall == (0.25, 0.416667, 0.583333)
    assert summary.hops["2"].recall == (0.375, 0.625)
    assert summary.hops["3"].recall == (0.0, 0.0, 0.5)
    assert (summary.overall.found, summary.hops["2"].found) == (0.583333, 0.625)
    nothing = summarize([row(1.0, 1.0)]).overall
    assert (nothing.supported, nothing.recall, nothing.found) == (0, (), None)


def test_nothing_but_errors() -> None:
    overall = summarize([row(0.0, 0.0, steps=0, error="no engine")]).overall
    assert (overall.em, overall.steps, overall.seconds, overall.produced) == (0.0, 0.0, 0.0, 0)


def test_hops_in_number_order() -> None:
    chains = [row(1.0, 1.0, hops=hops) for hops in (None, 10, 2, 4)]
    assert list(summarize(chains).hops) == ["2", "4", "10", "unknown"]


def test_every_question_is_in_one_hop_group() -> None:
    summary = summarize([row(1.0, 1.0, hops=hops) for hops in (2, 2, 3, None, 4)])
    assert sum(scores.questions for scores in summary.hops.values()) == 5


def test_no_chains_is_an_error() -> None:
    with pytest.raises(InputError, match="no chains"):
        summarize([])


def test_a_missing_column_is_named() -> None:
    broken = row(1.0, 1.0)
    del broken["f1"]
    with pytest.raises(InputError, match="row 2: no column 'f1'"):
        summarize([row(1.0, 1.0), broken])


def test_wilson_interval_by_hand() -> None:
    # p = ½, n = 100, z = 1.96: centre ½, half width z·√(1/400 + z²/40000) / (1 + z²/100)
    half = 1.96 * math.sqrt(0.0025 + 1.96**2 / 40_000) / (1 + 1.96**2 / 100)
    assert wilson_interval(0.5, 100) == pytest.approx((0.5 - half, 0.5 + half))
    # Newcombe 1998, table I: 0 of 20 gives 0 to 0.1611, and 81 of 263 gives 0.2553 to 0.3662.
    assert wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def searched(*searches: tuple[str, ...], gold: tuple[str, ...], **named: Any) -> dict[str, Any]:
    chain = row(0.0, 0.0, steps=1, **named)
    steps = [{**chain["steps"][0], "passage_ids": ids} for ids in searches]
    return {**chain, "steps": steps, "supporting_ids": gold}


def test_precision_is_the_share_of_gold_among_what_was_found() -> None:
    chains = [
        searched(("a", "x"), ("b", "y", "z"), gold=("a", "b")),  # 1/2, 2/5
        searched(("a",), gold=("a", "c")),  # 1, and stays so
        searched((), ("x",), gold=("c",)),  # 0, 0
        searched(("a",), gold=()),
    ]
    assert summarize(chains).overall.precision == (0.5, 0.466667)


def test_kinds_of_questions_are_those_of_the_data_set_and_yes_no() -> None:
    chains = [
        {**row(1.0, 1.0), "type": "bridge"},
        {**row(0.0, 0.0), "type": "bridge"},
        {**row(1.0, 1.0), "type": "comparison"},
        {**row(1.0, 1.0), "type": "comparison", "gold_answers": ["Yes."]},
        row(0.0, 0.0),
    ]
    types = summarize(chains).types
    assert [(name, one.questions, one.em) for name, one in types.items()] == [
        ("bridge", 2, 0.5),
        ("comparison", 1, 1.0),
        ("yes/no", 1, 1.0),
    ]
    assert summarize([{**row(1.0, 1.0), "type": str(n)} for n in range(13)]).types == {}
    norway = {**row(1.0, 1.0), "type": "bridge", "gold_answers": ["Norway", "NO"]}
    assert list(summarize([norway]).types) == ["bridge"]


def test_costs_of_a_right_answer_and_times_by_rank() -> None:
    chains = [row(float(n == 1), 0.0, steps=n) for n in range(1, 21)]  # n steps: 0.75 n seconds
    chains.append(row(0.0, 0.0, steps=0, error="engine died"))
    overall = summarize(chains).overall
    assert (overall.seconds_p50, overall.seconds_p95) == (7.5, 14.25)
    assert overall.seconds_per_right == pytest.approx(0.75 * 210)
    assert overall.tokens_per_right == 120 * 210
    nothing = summarize([row(0.0, 0.0)]).overall
    assert (nothing.seconds_per_right, nothing.tokens_per_right) == (None, None)


def test_answers_reasons_and_cut_steps_are_counted() -> None:
    cut = row(0.0, 0.0, steps=3, stop="forced")
    cut["steps"] = [*cut["steps"][:2], {**cut["steps"][2], "finish_reason": "length"}]
    empty = {**row(0.0, 0.0, steps=1), "answer": " "}
    failed = row(0.0, 0.0, steps=0, error="engine died")
    overall = summarize([cut, empty, row(1.0, 1.0, steps=0), failed]).overall
    assert overall.answered == 0.5  # of four questions
    assert overall.stop_reasons == {"answered": 2 / 3, "forced": 1 / 3}
    assert overall.cut_off == 0.25
