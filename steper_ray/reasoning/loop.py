"""The one reasoning loop: search, write a step, search with what it asks for, until the answer.

Teacher, evaluation and server all run `reason`; they differ only in the engine and the searcher that
they hand in. What a step looks like is the framework's. Nothing here knows Ray or vLLM.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from steper_ray.reasoning.framework import STEP_TERMINATOR, Prompt
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.prompts import fit_prompt
from steper_ray.reasoning.settings import ReasoningConfig as ReasoningConfig
from steper_ray.retrieval import Hit
from steper_ray.schema import Passage, Step, StopReason

THINK_START: Final = "<think>"
THINK_END: Final = "</think>"


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine wrote after a prompt, up to and without the stop text."""

    text: str
    prompt_tokens: int
    generated_tokens: int
    """The stop or end-of-text token included."""
    logprob_sum: float | None = None
    """Sum of the generated tokens' log-probabilities in nats; null where the engine gives none."""
    cached_tokens: int | None = None
    """Prompt tokens found in the prefix cache; null where the engine does not say."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 0.0
    """0 takes the likeliest."""
    top_p: float = 1.0
    """Least probability of the likeliest tokens that are drawn from."""
    seed: int | None = None
    """Draws the same text from the same prompt, where the engine can; None draws any."""

    def at(self, step: int) -> "Sampling":
        """The same with a seed of its own for a step."""
        return self if self.seed is None else replace(self, seed=self.seed + step)


GREEDY: Final = Sampling()


class Engine(Protocol):
    """What writes a step."""

    def count_tokens(self, prompt: Prompt) -> int: ...

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation: ...


class Searcher(Protocol):
    """What answers a search."""

    async def search_async(self, query: str, k: int) -> list[Hit]: ...


@dataclass(frozen=True, slots=True)
class Searching:
    """A step begins with a search."""

    step: int
    """From 1 on."""
    query: str


@dataclass(frozen=True, slots=True)
class Found:
    """The search of a step is done."""

    step: int
    hits: tuple[Hit, ...]
    """The passages that no step before had found."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Stepped:
    """A step is done."""

    number: int
    """From 1 on."""
    step: Step
    hits: tuple[Hit, ...]
    """The passages that its search was the first to find."""
    last: bool


Event = Searching | Found | Stepped
"""What happens in the loop, as it happens."""


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
    hint: str = "",
    sampling: Sampling = GREEDY,
    watch: Callable[[Event], None] | None = None,
) -> Reasoned:
    """Answer a question in at most `config.max_steps` steps (StepER, section 3.1).

    At step s the search brings P_s (the top k, passages seen before dropped and not refilled) and the
    engine writes r_s. The chain ends when r_s gives an answer. It is asked for its answer outright, the
    prompt itself beginning it, so every chain answers:

    * at the last step (`forced`);
    * after a step that named nothing to search (`no_query`), without a search;
    * after `config.max_empty_searches` searches in a row that brought nothing new (`nothing_new`), without
      another. The step of the last such search is written as usual: what is found may be all it needs.

    hint: what the model is told before the question (see `steper_ray.reasoning.hints`)
    watch: told of every search and step as it happens
    """
    tell = watch or (lambda _event: None)
    framework = framework_named(config.framework)
    searches: list[list[Passage]] = []
    passages: list[Passage] = []
    scores: list[float] = []
    steps: list[Step] = []
    query, empty_searches = question, 0
    while True:
        stop_reason: StopReason = "answered"
        if len(steps) + 1 == config.max_steps:
            stop_reason = "forced"
        elif not query:
            stop_reason = "no_query"
        elif empty_searches == config.max_empty_searches:
            stop_reason, query = "nothing_new", ""
        forced = stop_reason != "answered"
        started = time.monotonic()
        if query:
            tell(Searching(len(steps) + 1, query))
        hits = await searcher.search_async(query, config.passages_per_step) if query else []
        searched = time.monotonic()
        seen = {passage.id for passage in passages}
        new = [hit for hit in hits if hit.passage.id not in seen]
        empty_searches = 0 if new else empty_searches + 1
        searches.append([hit.passage for hit in new])
        passages += searches[-1]
        scores += [hit.score for hit in new]
        if query:
            tell(Found(len(steps) + 1, tuple(new), searched - started))
        fitted = fit_prompt(
            config,
            question,
            searches,
            [step.rationale for step in steps],
            forced=forced,
            hint=hint,
            count_tokens=engine.count_tokens,
        )
        stops = (STEP_TERMINATOR,) if forced else framework.STOPS
        generation = await write(
            engine,
            fitted.prompt,
            stop=stops,
            max_tokens=config.max_step_tokens,
            sampling=sampling.at(len(steps)),
        )
        written = framework.parse(generation.text, forced=forced)
        logprob = generation.logprob_sum
        step = Step(
            query=query,
            passage_ids=tuple(hit.passage.id for hit in new),
            rationale=written.rationale,
            mean_logprob=None if logprob is None else logprob / max(1, generation.generated_tokens),
            prompt_tokens=generation.prompt_tokens,
            generated_tokens=generation.generated_tokens,
            cached_tokens=generation.cached_tokens,
            dropped_passages=fitted.dropped_passages,
            search_seconds=searched - started,
            generate_seconds=time.monotonic() - searched,
        )
        steps.append(step)
        tell(Stepped(len(steps), step, tuple(new), written.answer is not None))
        if written.answer is not None:
            return Reasoned(
                tuple(passages), tuple(scores), tuple(steps), written.answer, stop_reason
            )
        query = written.query


async def write(
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
        logprob_sum=_sum([part.logprob_sum for part in parts]),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) if len(present) == len(values) else None
