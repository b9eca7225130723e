"""A model's `<think>` block: kept out of the step, with a token budget of its own."""

from collections.abc import Sequence
from typing import Final

from steper_ray.engines.protocol import GREEDY, Engine, Generation, Sampling
from steper_ray.reasoning.frameworks.protocol import STEP_TERMINATOR, Prompt

THINK_START: Final = "<think>"


THINK_END: Final = "</think>"


async def generate_step(
    engine: Engine,
    prompt: Prompt,
    *,
    stop: Sequence[str],
    max_tokens: int,
    sampling: Sampling = GREEDY,
) -> Generation:
    """What the engine writes up to a stop text, with any `<think>…</think>` before it stripped."""

    async def go_on(prompt: Prompt, stop: Sequence[str], max_tokens: int) -> Generation:
        return await engine.generate(prompt, stop=stop, max_tokens=max_tokens, sampling=sampling)

    parts = [await go_on(prompt, stop, max_tokens)]
    text = parts[0].text
    if text.lstrip().startswith(THINK_START):
        if THINK_END not in text:
            text += STEP_TERMINATOR
            thinking = prompt.going_on(text)
            parts.append(await go_on(thinking, (THINK_END,), 16 * max_tokens))
            text += parts[-1].text
        thought, _, text = text.partition(THINK_END)
        if not text.strip():
            opened = prompt.going_on(f"{thought}{THINK_END}{STEP_TERMINATOR}")
            parts.append(await go_on(opened, stop, max_tokens))
            text = parts[-1].text
    return Generation(
        text=text,
        prompt_tokens=parts[0].prompt_tokens,
        cached_tokens=parts[0].cached_tokens,
        generated_tokens=sum(part.generated_tokens for part in parts),
        finish_reason=parts[-1].finish_reason,
        logprob_sum=_logprob_sum([part.logprob_sum for part in parts]),
        logprob_tokens=sum(part.summed_tokens for part in parts),
    )


def _logprob_sum(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None
