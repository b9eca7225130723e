"""The one reasoning loop: search, write a sentence, search with it, until the answer (IRCoT).

Teacher, evaluation and server all run `reason`; they differ only in the engine and the searcher that
they hand in. Nothing here knows Ray or vLLM.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, Protocol

from pydantic import PositiveInt

from steper_ray.reasoning.ircot import (
    ANSWER_FLAG,
    INSTRUCTION,
    STEP_TERMINATOR,
    find_answer,
    fit_prompt,
)
from steper_ray.retrieval import Hit
from steper_ray.schema import Passage, Step, StopReason
from steper_ray.section import Section

THINK_START: Final = "<think>"
THINK_END: Final = "</think>"


class ReasoningConfig(Section):
    """How a question is answered; carried in the student's folder."""

    framework: Literal["ircot"] = "ircot"
    """Prompt layout, next query and stopping rule."""
    passages_per_step: PositiveInt = 4
    """Passages a search brings (k in the paper)."""
    max_steps: PositiveInt = 5
    """Steps before the answer is forced (S in the paper)."""
    instruction: str = INSTRUCTION
    """First line of every prompt."""
    max_prompt_tokens: PositiveInt = 4096
    """Longest prompt in tokens; beyond it whole passages are dropped, oldest first."""
    max_step_tokens: PositiveInt = 128
    """Longest sentence of a step in tokens."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote after a prompt, up to and without the stop text."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    """The stop or end-of-text token included."""
    logprob_sum: float | None = None
    """Sum of the generated tokens' log-probabilities in nats; null where the engine gives none."""


class Engine(Protocol):
    """What writes a step."""

    def count_tokens(self, text: str) -> int: ...

    async def generate(self, prompt: str, *, stop: str, max_tokens: int) -> Generation: ...


class Searcher(Protocol):
    """What answers a search."""

    async def search_async(self, query: str, k: int) -> list[Hit]: ...


@dataclass(frozen=True, slots=True)
class Reasoned:
    """A question answered: everything seen, everything written."""

    passages: tuple[Passage, ...]
    """Every passage retrieved, in the order it was first seen."""
    scores: tuple[float, ...]
    """BM25 score of each passage when it was first found."""
    steps: tuple[Step, ...]
    answer: str
    stop_reason: StopReason


async def reason(
    question: str,
    *,
    engine: Engine,
    searcher: Searcher,
    config: ReasoningConfig,
    on_step: Callable[[Step], None] | None = None,
) -> Reasoned:
    """Answer a question in at most `config.max_steps` steps (StepER, section 3.1).

    At step s the search brings P_s (the top k, passages seen before dropped and not refilled) and the
    engine writes r_s. The chain ends when r_s contains the answer flag. At the last step, or after a
    step that said nothing, the prompt itself ends with the flag, so every chain answers (`forced`).
    """
    passages: list[Passage] = []
    scores: list[float] = []
    steps: list[Step] = []
    query = question
    while True:
        started = time.monotonic()
        hits = await searcher.search_async(query, config.passages_per_step)
        searched = time.monotonic()
        seen = {passage.id for passage in passages}
        new = [hit for hit in hits if hit.passage.id not in seen]
        passages += [hit.passage for hit in new]
        scores += [hit.score for hit in new]
        forced = len(steps) + 1 == config.max_steps or (bool(steps) and not steps[-1].rationale)
        fitted = fit_prompt(
            question,
            passages,
            [step.rationale for step in steps],
            forced=forced,
            instruction=config.instruction,
            max_tokens=config.max_prompt_tokens,
            count_tokens=engine.count_tokens,
        )
        written = await _write(engine, fitted.text, config.max_step_tokens)
        text = " ".join(written.text.split())
        logprob = written.logprob_sum
        step = Step(
            query=query,
            passage_ids=tuple(hit.passage.id for hit in new),
            rationale=f"{ANSWER_FLAG} {text}".rstrip() if forced else text,
            mean_logprob=None if logprob is None else logprob / max(1, written.generated_tokens),
            prompt_tokens=written.prompt_tokens,
            generated_tokens=written.generated_tokens,
            dropped_passages=fitted.dropped_passages,
            search_seconds=searched - started,
            generate_seconds=time.monotonic() - searched,
        )
        steps.append(step)
        if on_step is not None:
            on_step(step)
        answer = find_answer(step.rationale)
        if answer is not None:
            reason_: StopReason = "forced" if forced else "answered"
            return Reasoned(tuple(passages), tuple(scores), tuple(steps), answer, reason_)
        query = step.rationale


async def _write(engine: Engine, prompt: str, max_tokens: int) -> Generation:
    """One step's text up to its terminator, with any `<think>…</think>` before it stripped."""
    parts = [await engine.generate(prompt, stop=STEP_TERMINATOR, max_tokens=max_tokens)]
    text = parts[0].text
    if text.lstrip().startswith(THINK_START):
        if THINK_END not in text:
            text += STEP_TERMINATOR
            parts.append(
                await engine.generate(prompt + text, stop=THINK_END, max_tokens=16 * max_tokens)
            )
            text += parts[-1].text
        thought, _, text = text.partition(THINK_END)
        if not text.strip():
            opened = f"{prompt}{thought}{THINK_END}{STEP_TERMINATOR}"
            parts.append(await engine.generate(opened, stop=STEP_TERMINATOR, max_tokens=max_tokens))
            text = parts[-1].text
    return Generation(
        text=text,
        prompt_tokens=parts[0].prompt_tokens,
        generated_tokens=sum(part.generated_tokens for part in parts),
        logprob_sum=_sum([part.logprob_sum for part in parts]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None
