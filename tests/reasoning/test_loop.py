"""The loop, with a fake engine and a fake retriever handed in through its own seam."""

import asyncio
from typing import Any

import pytest

from steper_ray.reasoning.frameworks import react
from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG, render_prompt
from steper_ray.reasoning.loop import Trajectory, reason
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Passage
from tests.fakes import ScriptedEngine, ScriptedRetriever

PASSAGES = {name: Passage(name, name.upper(), f"About {name}.") for name in "abcdef"}


def finding(*names: str) -> ScriptedRetriever:
    """A retriever of which each search finds the passages of these names."""
    return ScriptedRetriever(*([PASSAGES[name] for name in found] for found in names))


def run(engine: ScriptedEngine, retriever: ScriptedRetriever, **settings: Any) -> Trajectory:
    config = ReasoningConfig(instruction="Go.", **settings)
    return asyncio.run(reason("Who?", engine=engine, retriever=retriever, config=config))


def test_each_search_uses_the_last_sentence_and_passages_are_kept_in_order() -> None:
    engine = ScriptedEngine(" One.", " Two.", f" Three. {ANSWER_FLAG} X Y.")
    retriever = finding("ab", "bc", "ad")
    result = run(engine, retriever, passages_per_step=2)
    assert retriever.queries == ["Who?", "One.", "Two."]
    assert [p.id for p in result.passages] == ["a", "b", "c", "d"]
    assert [s.passage_ids for s in result.steps] == [("a", "b"), ("c",), ("d",)]
    assert result.answer == "X Y"
    assert result.stop_reason == "answered"
    assert [s.mean_logprob for s in result.steps] == [-0.5, -0.5, -0.5]
    assert engine.prompts[1] == render_prompt(
        "Who?", [PASSAGES[n] for n in "abc"], ["One."], instruction="Go."
    )
    assert engine.stops == [("\n",)] * 3


def test_the_top_k_is_taken_before_seen_passages_are_dropped() -> None:
    retriever = finding("ab", "abc")
    engine = ScriptedEngine(" One.", f" Two. {ANSWER_FLAG} X.")
    result = run(engine, retriever, passages_per_step=2)
    assert result.steps[1].passage_ids == ()


def test_the_last_step_is_forced_to_answer() -> None:
    engine = ScriptedEngine(" One.", " Two.", " X.")
    result = run(engine, finding("a", "b", "c"), max_steps=3)
    assert engine.prompts[-1].endswith(f"Fact 3: {ANSWER_FLAG}")
    assert result.stop_reason == "forced"
    assert result.answer == "X"
    assert result.steps[-1].rationale == f"{ANSWER_FLAG} X."
    assert len(result.steps) == 3


def test_an_empty_step_is_followed_by_the_forced_answer() -> None:
    retriever = finding("a", "b")
    engine = ScriptedEngine(" One.", "  ", "", "", "")
    result = run(engine, retriever)
    assert [s.rationale for s in result.steps] == ["One.", "", ANSWER_FLAG]
    assert retriever.queries == ["Who?", "One."]
    assert [s.query for s in result.steps] == ["Who?", "One.", ""]
    assert result.stop_reason == "no_query"
    assert result.answer == ""
    assert engine.texts == []
    assert (
        engine.prompts[2] == f"{engine.prompts[1]}  \n\n"
    )  # asked to go on behind an empty line, once


def test_two_searches_without_anything_new_are_the_last_ones() -> None:
    engine = ScriptedEngine(" One.", " Two.", " Three.", " X.")
    retriever = finding("ab", "ba", "b", "c")
    result = run(engine, retriever)
    assert retriever.queries == ["Who?", "One.", "Two."]
    assert result.stop_reason == "nothing_new"
    assert [s.rationale for s in result.steps][2:] == ["Three.", f"{ANSWER_FLAG} X."]
    assert engine.prompts[3] == f"{engine.prompts[2]} Three.\nFact 4: {ANSWER_FLAG}"
    assert result.answer == "X"


def test_the_step_of_the_second_such_search_may_still_answer() -> None:
    engine = ScriptedEngine(" One.", " Two.", f" Three. {ANSWER_FLAG} X.")
    result = run(engine, finding("ab", "ba", "b"))
    assert (result.stop_reason, result.answer) == ("answered", "X")


def test_searches_without_anything_new_count_only_in_a_row() -> None:
    engine = ScriptedEngine(" One.", " Two.", " Three.", " Four.", " X.")
    retriever = finding("a", "a", "b", "ab", "c")
    result = run(engine, retriever)
    assert len(retriever.queries) == 5
    assert result.stop_reason == "forced"
    engine = ScriptedEngine(" One.", " Two.", " X.")
    result = run(engine, finding("a", "a", "b"), max_empty_searches=1)
    assert (result.stop_reason, len(result.steps)) == ("nothing_new", 3)


def test_self_ask_searches_with_its_follow_up_questions() -> None:
    engine = ScriptedEngine(
        " Yes.\nFollow up: Who made B", " Ann.\nSo the final answer is: Ann Lee."
    )
    retriever = finding("a", "ab")
    result = run(engine, retriever, framework="self_ask")
    assert retriever.queries == ["Who?", "Who made B?"]
    assert [s.rationale for s in result.steps] == [
        "Yes.\nFollow up: Who made B?",
        "Ann.\nSo the final answer is: Ann Lee.",
    ]
    assert engine.prompts[0] == (
        "Go.\n\nQuestion: Who?\n\nTitle: A\nText: About a.\n\nAre follow up questions needed here:"
    )
    assert engine.prompts[1] == engine.prompts[0] + (
        " Yes.\nFollow up: Who made B?\n\nTitle: B\nText: About b.\n\nIntermediate answer:"
    )
    assert engine.stops[0] == ("?\n", "？\n", "\nIntermediate answer:", "\nQuestion:")
    assert (result.answer, result.stop_reason) == ("Ann Lee", "answered")


def test_react_is_made_to_finish_after_a_thought_without_an_action() -> None:
    engine = ScriptedEngine(" Hm.\nAction: Search[b", " I see.\nObservation 2", "Ann Lee]")
    retriever = finding("a", "b", "c")
    result = run(engine, retriever, framework="react")
    assert retriever.queries == ["Who?", "b"]
    assert engine.prompts[2].endswith(f" I see. Observation 2\nThought: {react.FORCED}")
    assert engine.stops == [react.STOPS, react.STOPS, ("\n",)]
    assert (result.answer, result.stop_reason) == ("Ann Lee", "no_query")


@pytest.mark.parametrize("framework", ["ircot", "self_ask", "react"])
def test_one_step_at_most_is_a_forced_answer(framework: str) -> None:
    engine = ScriptedEngine(" X." if framework != "react" else "X.]")
    result = run(engine, finding("a"), framework=framework, max_steps=1)
    assert (result.answer, result.stop_reason) == ("X", "forced")
    assert "About a." in engine.prompts[0]


def test_thinking_is_stripped_whether_or_not_it_spans_lines() -> None:
    engine = ScriptedEngine("<think> a", " b", " One.", f"<think>c</think> Two. {ANSWER_FLAG} X.")
    result = run(engine, finding("a", "b"))
    assert [s.rationale for s in result.steps] == ["One.", f"Two. {ANSWER_FLAG} X."]
    assert engine.stops == [("\n",), ("</think>",), ("\n",), ("\n",)]
    assert engine.prompts[2].endswith("<think> a\n b</think>\n\n")
    assert "think" not in engine.prompts[3]
    assert [s.thought for s in result.steps] == ["a\n b", "c"]
    assert [s.query for s in result.steps] == ["Who?", "One."]
    assert result.steps[0].generated_tokens == 12
    assert result.steps[0].mean_logprob == -6.0 / 12


def test_a_step_carries_why_the_engine_stopped() -> None:
    cut = run(ScriptedEngine(" One.", " X", finish_reason="length"), finding("ab"), max_steps=2)
    assert [(s.finish_reason, s.is_cut_off) for s in cut.steps] == [("length", True)] * 2
    assert (cut.answer, cut.stop_reason) == ("X", "forced")
    whole = run(ScriptedEngine(f" {ANSWER_FLAG} X.", finish_reason="stop"), finding("a"))
    assert [(s.finish_reason, s.is_cut_off) for s in whole.steps] == [("stop", False)]
    silent = run(ScriptedEngine(f" {ANSWER_FLAG} X."), finding("a"))
    assert [(s.finish_reason, s.is_cut_off) for s in silent.steps] == [(None, False)]


@pytest.mark.parametrize(
    ("framework", "text", "reason"),
    [
        ("ircot", " Ann made", "length"),
        ("ircot", f" {ANSWER_FLAG} X", "length"),
        ("ircot", "", "length"),
        ("self_ask", " Yes.\nFollow up: Who made B", "length"),
        ("self_ask", " Yes.\nFollow up: Who made B? I thi", "length"),
        ("self_ask", " Ann.\nSo the final answer is: Ann L", "length"),
        ("self_ask", " Ann.\nSo the final answer is: Ann Lee.\n\nI hope that th", "stop"),
        ("react", " Hm.\nAction: Sea", "length"),
        ("react", " Hm.\nAction: Search[b", "length"),
        ("react", " Hm.\nAction: Search[b] and then I", "stop"),
        ("react", " I know.\nAction: Finish[Ann Lee]", "stop"),
    ],
)
def test_a_limit_reached_after_the_end_of_a_step_cut_nothing_off(
    framework: str, text: str, reason: str
) -> None:
    engine = ScriptedEngine(text, "X", finish_reason="length")
    result = run(engine, finding("a", "b"), framework=framework, max_steps=2)
    assert result.steps[0].finish_reason == reason


@pytest.mark.parametrize(("whole_line", "reason"), [(False, "stop"), (True, "length")])
def test_a_second_sentence_is_cut_off_only_where_it_is_kept(whole_line: bool, reason: str) -> None:
    engine = ScriptedEngine(" One is so. Two is", "X", finish_reason="length")
    result = run(engine, finding("a", "b"), whole_line=whole_line, max_steps=2)
    assert result.steps[0].finish_reason == reason


def test_sentences_after_the_first_are_cut_and_counted() -> None:
    texts = " One is so. Two is so.", f" So. {ANSWER_FLAG} Yes. It is so."
    engine, retriever = ScriptedEngine(*texts), finding("a", "b")
    result = run(engine, retriever)
    assert [s.rationale for s in result.steps] == ["One is so.", f"So. {ANSWER_FLAG} Yes."]
    assert [s.cut_sentences for s in result.steps] == [1, 0]
    assert retriever.queries[1] == "One is so."
    assert engine.prompts[1].endswith("Fact 1: One is so.\nFact 2:")
    whole = run(ScriptedEngine(*texts), finding("a", "b"), whole_line=True)
    assert [s.rationale for s in whole.steps] == [texts[0].strip(), f"So. {ANSWER_FLAG} Yes."]
    assert [s.cut_sentences for s in whole.steps] == [0, 0]


def test_an_answer_on_the_next_line_costs_one_request_more() -> None:
    engine = ScriptedEngine(f" It is. {ANSWER_FLAG}", "X")
    result = run(engine, finding("a"))
    assert (result.answer, result.stop_reason) == ("X", "answered")
    assert engine.prompts[1] == f"{engine.prompts[0]} It is. {ANSWER_FLAG}\n"
    assert engine.stops == [("\n",)] * 2
    assert result.steps[0].generated_tokens == 8


def test_an_empty_answer_is_none() -> None:
    engine = ScriptedEngine(f" It is. {ANSWER_FLAG} .", f" {ANSWER_FLAG} .", " X.")
    retriever = finding("a", "b", "c")
    result = run(engine, retriever)
    assert retriever.queries == ["Who?", "It is."]
    assert [s.rationale for s in result.steps] == ["It is.", "", f"{ANSWER_FLAG} X."]
    assert (result.answer, result.stop_reason) == ("X", "no_query")


def test_dropped_passages_are_counted_in_the_step() -> None:
    engine = ScriptedEngine(f" {ANSWER_FLAG} X.")
    result = run(engine, finding("abcd"), max_prompt_tokens=16, max_passage_tokens=0)
    assert result.steps[0].dropped_passages == 2
    assert [p.id for p in result.passages] == ["a", "b", "c", "d"]
