"""The text of a step: what the engine writes, its thought apart, and beyond a stop text that came early.

A thought stands between `<think>` and `</think>` in what a model writes, or an endpoint gives it apart from
its reply. It has a token budget of its own. It may be ended without being begun (some chat templates begin
it), stand in the middle, or never end: then it is closed for the model when its budget is spent.

Where a stop text ends the step before it says anything (an empty line, an answer flag with the answer on
the next line), the model is asked to go on after it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Final

from steper_ray.engines.protocol import GREEDY, Engine, Generation, Sampling
from steper_ray.reasoning.frameworks.protocol import STEP_TERMINATOR, Prompt, empty_line

THINK_START: Final = "<think>"


THINK_END: Final = "</think>"


THOUGHT_BUDGET: Final = 16
"""Tokens of a thought that goes on, in multiples of a step's."""


MAX_CONTINUATIONS: Final = 2
"""Requests at most for a step that a stop text ended before it said anything."""


_TAGS: Final = re.compile(f"({THINK_START}|{THINK_END})")


async def generate_step(
    engine: Engine,
    prompt: Prompt,
    *,
    stop: Sequence[str],
    max_tokens: int,
    sampling: Sampling = GREEDY,
    unfinished: Callable[[str], str] = empty_line,
) -> Generation:
    """What the engine writes up to a stop text, with its thought apart.

    A further request is made only where a thought is not finished, or nothing is said yet.

    unfinished: see `Framework.unfinished`
    """

    async def go_on(prompt: Prompt, stop: Sequence[str], max_tokens: int) -> Generation:
        return await engine.generate(prompt, stop=stop, max_tokens=max_tokens, sampling=sampling)

    parts = [await go_on(prompt, stop, max_tokens)]
    written = parts[0].text
    thought, text, thinks_on = split_thought(written)
    if thinks_on and not text.strip():
        if parts[0].finish_reason != "length":
            written += STEP_TERMINATOR  # a line of the thought ended like a step
        budget = THOUGHT_BUDGET * max_tokens
        parts.append(await go_on(prompt.going_on(written), (THINK_END,), budget))
        written += parts[1].text + THINK_END
        thought, text, _ = split_thought(written)
    over = thought is None and parts[0].finish_reason == "length"
    for _ in range(MAX_CONTINUATIONS):
        ending = unfinished(text) or (empty_line(text) if thought is not None else "")
        if over or not ending:
            break
        part = await go_on(prompt.going_on(written + ending), stop, max_tokens)
        parts.append(part)
        written += ending + part.text
        thought, text, thinks_on = split_thought(written)
        over = thinks_on or not part.text or part.finish_reason == "length"
    return Generation(
        text=text.lstrip("\n"),
        prompt_tokens=parts[0].prompt_tokens,
        cached_tokens=parts[0].cached_tokens,
        generated_tokens=sum(part.generated_tokens for part in parts),
        finish_reason=parts[-1].finish_reason,
        logprob_sum=_logprob_sum([part.logprob_sum for part in parts]),
        logprob_tokens=sum(part.summed_tokens for part in parts),
        thought=joined_thoughts(parts[0].thought, thought),
    )


def split_thought(text: str) -> tuple[str | None, str, bool]:
    """The thought in a text, what stands outside of it, and whether the thought is not finished.

    The thought is None without a `<think>` or `</think>`. What comes before a `</think>` without a
    `<think>` is a thought too.
    """
    thought: list[str] = []
    said: list[str] = []
    inside = False
    first, *others = _TAGS.split(text)
    said.append(first)
    for tag, piece in zip(others[::2], others[1::2], strict=True):
        if tag == THINK_END and not inside:
            thought, said = [*thought, *said], []
        inside = tag == THINK_START
        (thought if inside else said).append(piece)
    return ("".join(thought) if others else None), "".join(said), inside


def joined_thoughts(*thoughts: str | None) -> str | None:
    """Thoughts as one; None where nothing was thought."""
    return "\n".join(part.strip() for part in thoughts if part and part.strip()) or None


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first of some stop texts, and whether one was in it.

    One at the very beginning does not count: chats begin with empty lines.
    """
    begin = len(text) - len(text.lstrip())
    places = [place for ending in stop if (place := text.find(ending, begin)) >= 0]
    return text[: min(places, default=len(text))], bool(places)


def _logprob_sum(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None
