"""The loop, with a fake engine and a fake searcher handed in through its own seam."""

import asyncio
from collections.abc import Sequence

from steper_ray.reasoning.ircot import (
    ANSWER_FLAG,
    find_answer,
    fit_prompt,
    render_prompt,
    render_target,
)
from steper_ray.reasoning.loop import Generation, Reasoned, ReasoningConfig, reason
from steper_ray.retrieval import Hit
from steper_ray.schema import Passage

PASSAGES = {name: Passage(name, name.upper(), f"About {name}.") for name in "abcdef"}


class ScriptedEngine:
    """Writes what it is told, and remembers what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.prompts: list[str] = []
        self.stops: list[str] = []

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    async def generate(self, prompt: str, *, stop: str, max_tokens: int) -> Generation:
        self.prompts.append(prompt)
        self.stops.append(stop)
        return Generation(self.texts.pop(0), self.count_tokens(prompt), 4, -2.0)


class ScriptedSearcher:
    """Finds what it is told, and remembers the queries."""

    def __init__(self, *found: str) -> None:
        self.found = list(found)
        self.queries: list[str] = []

    async def search_async(self, query: str, k: int) -> list[Hit]:
        self.queries.append(query)
        names = self.found.pop(0) if self.found else ""
        return [Hit(PASSAGES[name], 1.0) for name in names[:k]]


def run(engine: ScriptedEngine, searcher: ScriptedSearcher, **settings: int) -> Reasoned:
    config = ReasoningConfig(instruction="Go.", **settings)
    return asyncio.run(reason("Who?", engine=engine, searcher=searcher, config=config))


def test_the_prompt_is_laid_out_exactly_so() -> None:
    prompt = render_prompt("Who?", [PASSAGES["a"]], ["One.", "Two."], instruction="Go.")
    assert prompt == (
        "Go.\n\nTitle: A\nText: About a.\n\nQuestion: Who?\nStep 1: One.\nStep 2: Two.\nStep 3:"
    )
    forced = render_prompt("Who?", [], [], forced=True, instruction="Go.")
    assert forced == "Go.\n\nQuestion: Who?\nStep 1: So the answer is:"


def test_a_prompt_with_its_target_is_the_beginning_of_the_next_one() -> None:
    first = render_prompt("Who?", [], [])
    second = render_prompt("Who?", [], ["One."])
    assert second == first + render_target("One.", forced=False) + "Step 2:"
    assert render_target("So the answer is: X.", forced=True) == " X.\n"


def test_each_search_uses_the_last_sentence_and_passages_are_kept_in_order() -> None:
    engine = ScriptedEngine(" One.", " Two.", f" Three. {ANSWER_FLAG} X Y.")
    searcher = ScriptedSearcher("ab", "bc", "ad")
    result = run(engine, searcher, passages_per_step=2)
    assert searcher.queries == ["Who?", "One.", "Two."]
    assert [p.id for p in result.passages] == ["a", "b", "c", "d"]
    assert [s.passage_ids for s in result.steps] == [("a", "b"), ("c",), ("d",)]
    assert result.answer == "X Y"
    assert result.stop_reason == "answered"
    assert [s.mean_logprob for s in result.steps] == [-0.5, -0.5, -0.5]
    assert engine.prompts[1] == render_prompt(
        "Who?", [PASSAGES[n] for n in "abc"], ["One."], instruction="Go."
    )
    assert engine.stops == ["\n"] * 3


def test_the_top_k_is_taken_before_seen_passages_are_dropped() -> None:
    searcher = ScriptedSearcher("ab", "abc", "x")
    engine = ScriptedEngine(" One.", f" Two. {ANSWER_FLAG} X.")
    result = run(engine, searcher, passages_per_step=2)
    assert result.steps[1].passage_ids == ()


def test_the_last_step_is_forced_to_answer() -> None:
    engine = ScriptedEngine(" One.", " Two.", " X.")
    result = run(engine, ScriptedSearcher("a", "b", "c"), max_steps=3)
    assert engine.prompts[-1].endswith(f"Step 3: {ANSWER_FLAG}")
    assert result.stop_reason == "forced"
    assert result.answer == "X"
    assert result.steps[-1].rationale == f"{ANSWER_FLAG} X."
    assert len(result.steps) == 3


def test_an_empty_step_is_followed_by_the_forced_answer() -> None:
    result = run(ScriptedEngine(" One.", "  ", ""), ScriptedSearcher("a"))
    assert [s.rationale for s in result.steps] == ["One.", "", ANSWER_FLAG]
    assert result.stop_reason == "forced"
    assert result.answer == ""


def test_thinking_is_stripped_whether_or_not_it_spans_lines() -> None:
    engine = ScriptedEngine("<think> a", " b", " One.", f"<think>c</think> Two. {ANSWER_FLAG} X.")
    result = run(engine, ScriptedSearcher("a", "b"))
    assert [s.rationale for s in result.steps] == ["One.", f"Two. {ANSWER_FLAG} X."]
    assert engine.stops == ["\n", "</think>", "\n", "\n"]
    assert engine.prompts[2].endswith("<think> a\n b</think>\n")
    assert "think" not in engine.prompts[3]
    assert result.steps[0].generated_tokens == 12


def test_a_prompt_too_long_drops_whole_passages_oldest_first() -> None:
    def fit(passages: Sequence[str], limit: int) -> tuple[str, int, int]:
        fitted = fit_prompt(
            "Who?",
            [PASSAGES[n] for n in passages],
            ["One."],
            forced=False,
            instruction="Go.",
            max_tokens=limit,
            count_tokens=lambda text: len(text.split()),
        )
        return fitted.text, fitted.dropped_passages, fitted.tokens

    bare = len(render_prompt("Who?", [], ["One."], instruction="Go.").split())
    each = 5  # Title: A / Text: About a.
    assert fit("abc", bare + 3 * each)[1] == 0
    text, dropped, tokens = fit("abc", bare + 3 * each - 1)
    assert (dropped, tokens) == (1, bare + 2 * each)
    assert "Title: A" not in text
    assert text.index("Title: B") < text.index("Title: C")
    assert fit("abc", 1)[1:] == (3, bare)


def test_dropped_passages_are_counted_in_the_step() -> None:
    engine = ScriptedEngine(f" {ANSWER_FLAG} X.")
    result = run(engine, ScriptedSearcher("abcd"), max_prompt_tokens=16)
    assert result.steps[0].dropped_passages == 2
    assert [p.id for p in result.passages] == ["a", "b", "c", "d"]


def test_answers_are_found_whatever_surrounds_them() -> None:
    assert find_answer("So the answer is: New York.") == "New York"
    assert find_answer("He is. so the ANSWER is: 42") == "42"
    assert find_answer("So the answer is: a. So the answer is: b.") == "b"
    assert find_answer("So the answer is:") == ""
    assert find_answer("The answer is 42.") is None
    assert find_answer("So the answer is: J. R. R.") == "J. R. R"
