"""Tokens of a question, expected from the reasoning settings and assumed lengths.

Computed for `ircot`, whose question and reasoning stand after the passages and are read again at each
step; the other frameworks append, and read a little less.
"""

from dataclasses import dataclass
from typing import Final

from steper_ray.planning.settings import PlanConfig
from steper_ray.reasoning.demonstrations import render_head
from steper_ray.reasoning.settings import ReasoningConfig

CHARACTERS_PER_TOKEN: Final = 4
"""Of English text."""


@dataclass(frozen=True, slots=True)
class QuestionTokens:
    """Tokens of one question that takes all S steps and finds a new passage with each search."""

    head: int
    """Instruction and demonstrations: the same for all questions, so an engine keeps them once."""
    expected: int
    """The last prompt and what is written after it."""
    longest: int
    """The longest that the settings allow: `max_prompt_tokens` and `max_step_tokens`."""
    read: int
    """Prompt tokens that go through the model: what an earlier step had in common is in the cache."""
    written: int
    packed: int
    """Tokens that training computes of its examples, their common prefixes once."""
    separate: int
    """Tokens of its examples."""


def question_tokens(reasoning: ReasoningConfig, plan: PlanConfig) -> QuestionTokens:
    """Expected tokens of a question.

    reasoning: complete settings of whoever is asked
    """
    head = sum(map(len, render_head(reasoning))) // CHARACTERS_PER_TOKEN
    steps, written = reasoning.max_steps, min(plan.step_tokens, reasoning.max_step_tokens)
    passage = min(plan.passage_tokens, reasoning.passage_limit or plan.passage_tokens)
    found = reasoning.passages_per_step * passage
    limit = reasoning.max_prompt_tokens

    def tail(step: int) -> int:
        """The question and the reasoning before a step."""
        return plan.question_tokens + (step - 1) * written

    every = range(1, steps + 1)
    prompts = [min(limit, head + step * found + tail(step)) for step in every]
    tails = sum(tail(step) for step in every)
    trunk = min(steps * found, max(0, limit - head - tail(steps)))
    return QuestionTokens(
        head=head,
        expected=prompts[-1] + written,
        longest=limit + reasoning.max_step_tokens,
        read=trunk + tails,
        written=steps * written,
        packed=head + trunk + tails + steps * written,
        separate=sum(prompts) + steps * written,
    )
