"""The prompt of a step: instruction, demonstrations, then what the framework lays out; and its tokens.

Teacher, training, evaluation and server all make their prompts with `make_prompt`, fit them with
`fit_prompt` and turn them into tokens with a `PromptEncoder`, so that what the student is trained on is,
token by token, what it is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from steper_ray.reasoning.demonstrations import render_head
from steper_ray.reasoning.frameworks import cue_of, framework_named
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Passage


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
    count_tokens: Callable[[Prompt], int],
) -> FittedPrompt:
    """The prompt of step s in at most `max_prompt_tokens`, dropping whole passages, oldest first."""

    def make(left: Sequence[Sequence[Passage]]) -> Prompt:
        return make_prompt(settings, question, left, rationales, forced=forced, hint=hint)

    return drop_oldest(searches, make, settings.max_prompt_tokens, count_tokens)


def drop_oldest(
    searches: Sequence[Sequence[Passage]],
    make: Callable[[Sequence[Sequence[Passage]]], Prompt],
    most: int,
    count_tokens: Callable[[Prompt], int],
) -> FittedPrompt:
    """The prompt of as many passages, the newest ones, as fit into `most` tokens.

    Nothing else is ever cut. With no passage left the prompt is returned even if it is still too long; the
    engine then refuses it with its own error.
    """
    passages = sum(len(search) for search in searches)
    for dropped in range(passages + 1):
        prompt = make(_without_oldest(searches, dropped))
        tokens = count_tokens(prompt)
        if tokens <= most or dropped == passages:
            return FittedPrompt(prompt, dropped, tokens)
    raise AssertionError("unreachable: the loop returns at its last turn")


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
