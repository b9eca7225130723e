"""The text of a step: what the engine writes, without a thought, and beyond a stop text that came early.

A model's `<think>` block is kept out of the step and has a token budget of its own. Where a stop text ends
the step before it says anything (an empty line, an answer flag with the answer on the next line), the model
is asked to go on after it.
"""

from collections.abc import Callable, Sequence
from typing import Final

from steper_ray.engines.protocol import GREEDY, Engine, Generation, Sampling
from steper_ray.reasoning.frameworks.protocol import STEP_TERMINATOR, Prompt, empty_line

THINK_START: Final = "<think>"


THINK_END: Final = "</think>"


MAX_CONTINUATIONS: Final = 2
"""Requests at most for a step that a stop text ended before it said anything."""


async def generate_step(
    engine: Engine,
    prompt: Prompt,
    *,
    stop: Sequence[str],
    max_tokens: int,
    sampling: Sampling = GREEDY,
    unfinished: Callable[[str], str] = empty_line,
) -> Generation:
    """What the engine writes up to a stop text, with any `<think>…</think>` before it stripped.

    unfinished: see `Framework.unfinished`
    """

    async def go_on(prompt: Prompt, stop: Sequence[str], max_tokens: int) -> Generation:
        return await engine.generate(prompt, stop=stop, max_tokens=max_tokens, sampling=sampling)

    parts = [await go_on(prompt, stop, max_tokens)]
    text = parts[0].text
    thinks = text.lstrip().startswith(THINK_START)
    if thinks:
        if THINK_END not in text:
            text += STEP_TERMINATOR
            thinking = prompt.going_on(text)
            parts.append(await go_on(thinking, (THINK_END,), 16 * max_tokens))
            text += parts[-1].text
        thought, _, text = text.partition(THINK_END)
        prompt = prompt.going_on(f"{thought}{THINK_END}")
    for _ in range(MAX_CONTINUATIONS):
        ending = unfinished(text) or (empty_line(text) if thinks else "")
        if not ending:
            break
        text += ending
        parts.append(await go_on(prompt.going_on(text), stop, max_tokens))
        text += parts[-1].text
        if not parts[-1].text:
            break
    return Generation(
        text=text,
        prompt_tokens=parts[0].prompt_tokens,
        cached_tokens=parts[0].cached_tokens,
        generated_tokens=sum(part.generated_tokens for part in parts),
        logprob_sum=_logprob_sum([part.logprob_sum for part in parts]),
    )


def _logprob_sum(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None
