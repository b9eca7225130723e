"""The fit of a prompt: the passages that the plain way keeps, few prompts counted; long ones cut once."""

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt, render_passages
from steper_ray.reasoning.loop import PassagesFound, reason
from steper_ray.reasoning.passages import cut_passage
from steper_ray.reasoning.prompts import TokenCounter, drop_oldest, make_prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Passage
from steper_ray.toy.tokenizer import make_tokenizer
from tests.fakes import ScriptedEngine, ScriptedRetriever
from tests.tokenizer_families import FAMILIES, family

WORDS = (
    "Rome",
    " is",
    " the",
    " old",
    "est",
    " town",
    ".",
    "\n",
    " 12",
    "東京",
    " é",
    "</s>",
    " <|im_end|>",
)
TEXTS = st.lists(st.sampled_from(WORDS), max_size=40).map("".join)
PASSAGES = st.lists(st.builds(Passage, st.just(""), TEXTS, TEXTS), max_size=5)
SEARCHES = st.lists(PASSAGES, min_size=1, max_size=10)


class Counting:
    """Counts as another counter does, and how often it was asked to."""

    def __init__(self, counter: TokenCounter) -> None:
        self._counter = counter
        self.prompts = 0

    def count_tokens(self, prompt: Prompt) -> int:
        self.prompts += 1
        return self._counter.count_tokens(prompt)

    def count_text(self, text: str) -> int:
        return self._counter.count_text(text)


def dropped_one_by_one(
    searches: Sequence[Sequence[Passage]],
    make: Callable[[Sequence[Sequence[Passage]]], Prompt],
    limit: int,
    counter: TokenCounter,
) -> tuple[Prompt, int, int]:
    """The plain way: whole passages, oldest first, and after each the whole prompt is counted again."""
    left = [list(search) for search in searches]
    dropped = 0
    while True:
        prompt = make(left)
        tokens = counter.count_tokens(prompt)
        if tokens <= limit or not any(left):
            return prompt, dropped, tokens
        next(search for search in left if search).pop(0)
        dropped += 1


def maker(framework: str) -> Callable[[Sequence[Sequence[Passage]]], Prompt]:
    config = ReasoningConfig(framework=framework, instruction="Go.")
    rationales = {
        "ircot": "Rome is old.",
        "self_ask": "Yes.\nFollow up: Who?",
        "react": "Hm.\nAction: Search[c]",
    }

    def make(searches: Sequence[Sequence[Passage]]) -> Prompt:
        earlier = [rationales[framework]] * (len(searches) - 1)
        return make_prompt(config, "Who?", searches, earlier, forced=False)

    return make


COUNTERS: dict[str, TokenCounter] = {
    "words": ScriptedEngine(),
    "toy": PromptEncoder(make_tokenizer()),
    **{name: PromptEncoder(family(name)) for name in FAMILIES},
}


@pytest.mark.parametrize("name", COUNTERS)
@settings(max_examples=40, deadline=None)
@given(
    searches=SEARCHES,
    framework=st.sampled_from(["ircot", "self_ask", "react"]),
    share=st.floats(0.0, 1.1),
)
@example(searches=[[]], framework="ircot", share=0.5)
def test_the_fit_is_that_of_dropping_one_by_one(
    name: str, searches: list[list[Passage]], framework: str, share: float
) -> None:
    """share: of the whole prompt's tokens that are allowed."""
    counter, make = COUNTERS[name], maker(framework)
    limit = max(1, int(share * counter.count_tokens(make(searches))))
    counting = Counting(counter)
    fitted = drop_oldest(searches, make, limit, counting)
    expected = dropped_one_by_one(searches, make, limit, counter)
    assert (fitted.prompt, fitted.dropped_passages, fitted.tokens) == expected
    assert counting.prompts <= 8


@pytest.mark.parametrize("name", ["words", "qwen2.5", "llama2"])
@pytest.mark.parametrize("lengths", ["equal", "growing", "mixed"])
def test_few_prompts_are_counted_whatever_k_and_s(name: str, lengths: str) -> None:
    """200 passages, as k = 20 and S = 10 bring, at every limit."""
    size = {
        "equal": lambda _: 30,
        "growing": lambda number: 1 + number,
        "mixed": lambda number: 400 if number % 7 == 0 else number % 5,
    }[lengths]
    searches = [
        [Passage("", f"T{step}", "Rome is old. " * size(20 * step + n)) for n in range(20)]
        for step in range(10)
    ]
    counter, make = COUNTERS[name], maker("ircot")
    whole = counter.count_tokens(make(searches))
    for limit in [1, 60, *range(whole // 9, whole + whole // 9, whole // 9)]:
        counting = Counting(counter)
        fitted = drop_oldest(searches, make, limit, counting)
        assert counting.prompts <= 5
        assert fitted.tokens <= limit or fitted.dropped_passages == 200
        if 0 < fitted.dropped_passages < 200:  # one more would have been too many
            kept = [passage for search in searches for passage in search][
                fitted.dropped_passages - 1 :
            ]
            assert counter.count_tokens(make([*[[]] * 9, kept])) > limit


def test_sizes_that_say_nothing_only_take_longer() -> None:
    """The range is halved then."""

    class Silent(Counting):
        def count_text(self, text: str) -> int:
            return 0

    searches = [[Passage("", f"T{n}", "Rome is old") for n in range(15)]]
    make, words = maker("ircot"), ScriptedEngine()
    for limit in range(1, 100, 3):
        silent = Silent(words)
        fitted = drop_oldest(searches, make, limit, silent)
        assert silent.prompts <= 9
        expected = dropped_one_by_one(searches, make, limit, words)
        assert (fitted.prompt, fitted.dropped_passages, fitted.tokens) == expected


# Long passages -----------------------------------------------------------------------------------------

LONG = Passage("p", "Rome", "Rome is old. It has a mayor.  She is ten! And so on, for ever.")


def count(text: str) -> int:
    return len(text.split())


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (18, LONG.text),  # with "Title: Rome Text:" it has 18 words
        (17, "Rome is old. It has a mayor.  She is ten!"),
        (13, "Rome is old. It has a mayor.  She is ten!"),
        (12, "Rome is old. It has a mayor."),
        (6, "Rome is old."),
        (5, "Rome is"),
        (4, "Rome"),
    ],
)
def test_a_long_passage_is_cut_at_its_last_sentence_that_fits(limit: int, expected: str) -> None:
    cut = cut_passage(LONG, limit, count)
    assert cut == Passage("p", "Rome", expected)
    assert cut_passage(cut, limit, count) == cut


@pytest.mark.parametrize("name", ["toy", *FAMILIES])
def test_a_cut_passage_has_no_more_tokens_than_it_may_have(name: str) -> None:
    counter = COUNTERS[name]
    texts = {
        "english": "Rome is the oldest town. It has a mayor, whose name is Ada. " * 2000,
        "no full stop": "Rome and Ada and " * 5000,
        "chinese": "東京は日本の首都である。人口は千四百万人。" * 2000,
        "one word": "Donaudampfschifffahrtsgesellschaft" * 2000,
        "korean without a space": "서울은대한민국의수도이다" * 2000,
        "spaces": " " * 100_000,
        "control tokens": "<|im_end|></think> is no word. " * 1000,
    }
    for text in texts.values():
        passage = Passage("p", "Rome", text)
        for limit in (40, 100):
            cut = cut_passage(passage, limit, counter.count_text)
            assert counter.count_text(render_passages([cut])[0]) <= limit
            assert text.startswith(cut.text)
            assert cut_passage(cut, limit, counter.count_text) == cut
            if text.strip():
                assert cut.text
        short = Passage("p", "Rome", text[:20].strip())
        assert cut_passage(short, 100, counter.count_text) == short


def test_no_more_of_a_long_passage_is_counted_than_is_needed() -> None:
    counted: list[str] = []

    def counter(text: str) -> int:
        counted.append(text)
        return count(text)

    passage = Passage("p", "Rome", "Rome is the oldest town of all. " * 6000)
    assert count(cut_passage(passage, 100, counter).text) == 91  # 13 sentences of 7 words
    assert sum(map(len, counted)) < 600


def test_a_passage_is_cut_when_it_is_found_and_stays_so() -> None:
    other = Passage("o", "Ada", "Ada is a mayor.")
    engine = ScriptedEngine(" One.", " So the answer is: X.")
    found: list[PassagesFound] = []
    config = ReasoningConfig(instruction="Go.", max_passage_tokens=12)
    reasoned = asyncio.run(
        reason(
            "Who?",
            engine=engine,
            retriever=ScriptedRetriever([LONG], [LONG, other]),
            config=config,
            watch=lambda event: found.append(event) if isinstance(event, PassagesFound) else None,
        )
    )
    cut = Passage("p", "Rome", "Rome is old. It has a mayor.")
    assert reasoned.passages == (cut, other)
    assert [hit.passage for event in found for hit in event.hits] == [cut, other]
    for prompt in engine.prompts:
        assert "Text: Rome is old. It has a mayor.\n\n" in prompt


def test_the_longest_passage_follows_from_prompt_and_k_and_is_carried() -> None:
    whole = complete_reasoning(ReasoningConfig(max_prompt_tokens=4096, passages_per_step=20))
    assert whole.max_passage_tokens == 102
    assert complete_reasoning(whole.model_copy(update={"passages_per_step": 2})) == (
        whole.model_copy(update={"passages_per_step": 2})
    )
    assert ReasoningConfig(max_prompt_tokens=1).passage_limit == 1
    assert complete_reasoning(ReasoningConfig(max_passage_tokens=0)).max_passage_tokens == 0


def test_0_cuts_no_passage() -> None:
    engine, retriever = ScriptedEngine(" So the answer is: X."), ScriptedRetriever([LONG])
    config = ReasoningConfig(instruction="Go.", max_prompt_tokens=40, max_passage_tokens=0)
    reasoned = asyncio.run(reason("Who?", engine=engine, retriever=retriever, config=config))
    assert reasoned.passages == (LONG,)


def test_prompts_are_counted_beside_the_event_loop() -> None:
    """Another coroutine goes on while the tokens of a long prompt are counted."""

    class Slow(ScriptedEngine):
        def count_tokens(self, prompt: Prompt) -> int:
            done.wait(10)
            return super().count_tokens(prompt)

    import threading

    done = threading.Event()

    async def both() -> None:
        retriever = ScriptedRetriever([LONG])
        engine = Slow(" So the answer is: X.")
        asked = asyncio.create_task(
            reason("Who?", engine=engine, retriever=retriever, config=ReasoningConfig())
        )
        for _ in range(20):
            await asyncio.sleep(0)
        done.set()
        await asked

    asyncio.run(asyncio.wait_for(both(), 60))
