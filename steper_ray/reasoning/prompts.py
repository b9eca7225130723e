"""The prompt of a step: instruction, demonstrations, then what the framework lays out; and its tokens.

Teacher, training, evaluation and server all make their prompts with `make_prompt`, fit them with
`fit_prompt` and turn them into tokens with a `PromptEncoder`, so that what the student is trained on is,
token by token, what it is asked.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Protocol

from steper_ray.reasoning.demonstrations import render_head
from steper_ray.reasoning.frameworks import cue_of, framework_named
from steper_ray.reasoning.frameworks.protocol import Prompt, render_passages
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Passage

SEAM: Final = 8
"""Upper bound for the tokens by which a passage in a prompt has fewer than by itself: what it shares with
its neighbours, and a first space that some tokenizers put before every text."""


CHARACTERS_PER_TOKEN: Final = 6
"""More than most texts have; a prompt with more for each token that it may have is taken to be too long."""


MAX_GUESSES: Final = 5
"""Prompts that are counted by the estimate; then the range is halved."""


class TokenCounter(Protocol):
    """What counts tokens: an engine, or the encoder of its model."""

    def count_tokens(self, prompt: Prompt) -> int:
        """Tokens of a prompt as the model reads it."""
        ...

    def count_text(self, text: str) -> int:
        """Tokens of a text by itself."""
        ...


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits its context."""

    prompt: Prompt
    dropped_passages: int
    """How many of the oldest passages had to go."""
    tokens: int


def make_prompt(
    settings: ReasoningConfig,
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    hint: str = "",
) -> Prompt:
    """The prompt of step s; for searches, rationales and forced see `Framework`.

    hint: what stands before what the framework lays out (see `steper_ray.reasoning.hints`)
    """
    framework = framework_named(settings.framework)
    cue = cue_of(settings)
    prompt = framework.lay_out(question, searches, rationales, forced=forced, cue=cue)
    return prompt.headed(*render_head(settings), *([hint] if hint else []))


def fit_prompt(
    settings: ReasoningConfig,
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    hint: str = "",
    counter: TokenCounter,
) -> FittedPrompt:
    """The prompt of step s in at most `max_prompt_tokens`, dropping whole passages, oldest first."""

    def make(left: Sequence[Sequence[Passage]]) -> Prompt:
        return make_prompt(settings, question, left, rationales, forced=forced, hint=hint)

    return drop_oldest(searches, make, settings.max_prompt_tokens, counter)


def drop_oldest(
    searches: Sequence[Sequence[Passage]],
    make: Callable[[Sequence[Sequence[Passage]]], Prompt],
    limit: int,
    counter: TokenCounter,
) -> FittedPrompt:
    """The prompt of as many passages, the newest ones, as fit into `limit` tokens.

    Nothing else is ever cut. With no passage left the prompt is returned even if it is still too long; the
    engine then refuses it with its own error.

    How many have to go is estimated from the tokens of each passage and corrected by those of a few
    prompts. A passage less never makes a prompt longer.
    """
    passages = [passage for search in searches for passage in search]
    measured: dict[int, FittedPrompt] = {}

    def measure(dropped: int) -> int:
        prompt = make(_without_oldest(searches, dropped))
        measured[dropped] = FittedPrompt(prompt, dropped, counter.count_tokens(prompt))
        return measured[dropped].tokens

    too_long, enough = -1, len(passages)
    at = 0 if len(make(searches).text) <= limit * CHARACTERS_PER_TOKEN else enough
    tokens = measure(at)
    if (tokens <= limit and at == 0) or (tokens > limit and at == enough):
        return measured[at]
    sizes = map(counter.count_text, render_passages(passages))
    # tokens of the oldest passages together: of none, of one, of two …
    oldest = list(accumulate(sizes, initial=0))
    while True:
        too_long, enough = (too_long, at) if tokens <= limit else (at, enough)
        surely_too_long = tokens + oldest[at] - oldest[enough - 1] > limit + SEAM
        if enough - too_long == 1 or (at == enough and surely_too_long):
            break
        guess = bisect_left(oldest, tokens + oldest[at] - limit)
        if len(measured) >= MAX_GUESSES:
            guess = (too_long + enough) // 2
        at = min(max(guess, too_long + 1), enough - 1)
        tokens = measure(at)
    if enough not in measured:
        measure(enough)
    return measured[enough]


def split_searches(passages: Sequence[Passage], found: Sequence[int]) -> list[list[Passage]]:
    """P_1 … P_s from all of them in their order and how many each search brought.

    found: empty where all came with the first search
    """
    counts = list(found) or [len(passages)]
    assert sum(counts) == len(passages), "every passage belongs to one search"
    starts = [sum(counts[:number]) for number in range(len(counts))]
    return [
        list(passages[start : start + count]) for start, count in zip(starts, counts, strict=True)
    ]


def _without_oldest(
    searches: Sequence[Sequence[Passage]], dropped: int
) -> Sequence[Sequence[Passage]]:
    if not dropped:
        return searches
    left = []
    for search in searches:
        left.append(search[dropped:])
        dropped = max(0, dropped - len(search))
    return left
