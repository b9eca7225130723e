"""The one reasoning loop: search, write a step, search with what it asks for, until the answer.

Teacher, evaluation and server all run `reason`; they differ only in the engine and the retriever that
they hand in. What a step looks like is the framework's. Nothing here knows Ray or vLLM.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from steper_ray.engines.protocol import GREEDY, Engine, Generation, Sampling
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.frameworks.protocol import ParsedStep, ends_of
from steper_ray.reasoning.passages import cut_passage
from steper_ray.reasoning.prompts import fit_prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.reasoning.thinking import generate_step
from steper_ray.retrieval.protocol import Hit, Retriever
from steper_ray.schema import FinishReason, Passage, Step, StopReason, is_forced


@dataclass(frozen=True, slots=True)
class SearchStarted:
    """A step begins with a search."""

    step: int
    """From 1 on."""
    query: str


@dataclass(frozen=True, slots=True)
class PassagesFound:
    """The search of a step is done."""

    step: int
    hits: tuple[Hit, ...]
    """The passages that no step before had found."""
    seconds: float


@dataclass(frozen=True, slots=True)
class StepFinished:
    """A step is done."""

    number: int
    """From 1 on."""
    step: Step
    hits: tuple[Hit, ...]
    """The passages that its search was the first to find."""
    last: bool


Event = SearchStarted | PassagesFound | StepFinished
"""What happens in the loop, as it happens."""


@dataclass(frozen=True, slots=True)
class Trajectory:
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
    retriever: Retriever,
    config: ReasoningConfig,
    hint: str = "",
    sampling: Sampling = GREEDY,
    watch: Callable[[Event], None] | None = None,
) -> Trajectory:
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
    config = complete_reasoning(config)
    searches: list[tuple[Hit, ...]] = []
    steps: list[Step] = []
    query, empty_searches = question, 0
    while True:
        number = len(steps) + 1
        stop_reason, query = _stop_or_search(number, query, empty_searches, config)
        forced = is_forced(stop_reason)
        started = searched = time.monotonic()
        new: tuple[Hit, ...] = ()
        if query:
            tell(SearchStarted(number, query))
            new = await _search(retriever, query, searches, config, engine)
            searched = time.monotonic()
            tell(PassagesFound(number, new, searched - started))
        empty_searches = 0 if new else empty_searches + 1
        searches.append(new)
        step, written = await write_step(
            question,
            [[hit.passage for hit in hits] for hits in searches],
            [step.rationale for step in steps],
            engine=engine,
            config=config,
            forced=forced,
            hint=hint,
            sampling=sampling,
        )
        step = replace(step, query=query, search_seconds=searched - started)
        steps.append(step)
        tell(StepFinished(number, step, new, written.answer is not None))
        if written.answer is not None:
            return _trajectory(searches, steps, written.answer, stop_reason)
        query = written.query


async def write_step(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    engine: Engine,
    config: ReasoningConfig,
    forced: bool,
    hint: str = "",
    sampling: Sampling = GREEDY,
) -> tuple[Step, ParsedStep]:
    """The step that follows on what was found and said, without its search; and how it was read.

    searches:   the passages that each search up to this step was the first to find
    rationales: of the steps before
    config:     complete (see `complete_reasoning`)
    forced:     whether the step must answer
    """
    framework = framework_named(config.framework)
    started = time.monotonic()
    fitted = await asyncio.to_thread(  # tokens are counted while other questions go on
        fit_prompt,
        config,
        question,
        searches,
        rationales,
        forced=forced,
        hint=hint,
        counter=engine,
    )
    generation = await generate_step(
        engine,
        fitted.prompt,
        stop=ends_of(framework.STOPS, forced=forced),
        max_tokens=config.max_step_tokens,
        sampling=sampling.at(len(rationales)),
        unfinished=partial(framework.unfinished, forced=forced),
    )
    parse = partial(framework.parse, forced=forced, whole_line=config.whole_line)
    written = parse(generation.text)
    step = Step(
        query="",
        passage_ids=tuple(passage.id for passage in searches[-1]),
        rationale=written.rationale,
        mean_logprob=generation.mean_logprob,
        prompt_tokens=generation.prompt_tokens,
        generated_tokens=generation.generated_tokens,
        cached_tokens=generation.cached_tokens,
        dropped_passages=fitted.dropped_passages,
        generate_seconds=time.monotonic() - started,
        finish_reason=_finish_reason(generation, written, parse),
        thought=generation.thought,
        cut_sentences=written.cut_sentences,
    )
    return step, written


def _finish_reason(
    generation: Generation, read: ParsedStep, parse: Callable[[str], ParsedStep]
) -> FinishReason | None:
    """Why the engine stopped; a limit that it reached in what the framework leaves out cut nothing off."""
    if generation.finish_reason != "length":
        return generation.finish_reason
    longer = parse(f"{generation.text}x")
    whole = (read.rationale, read.answer) == (longer.rationale, longer.answer)
    return "stop" if whole else "length"


def _stop_or_search(
    number: int, query: str, empty_searches: int, config: ReasoningConfig
) -> tuple[StopReason, str]:
    """Why a step must answer, "answered" if it is free not to; and what it searches with, if at all."""
    if number == config.max_steps:
        return "forced", query
    if not query:
        return "no_query", ""
    if empty_searches == config.max_empty_searches:
        return "nothing_new", ""
    return "answered", query


async def _search(
    retriever: Retriever,
    query: str,
    searches: Sequence[Sequence[Hit]],
    config: ReasoningConfig,
    engine: Engine,
) -> tuple[Hit, ...]:
    """The hits among the top k for a query that no earlier search brought, long passages cut."""
    (hits,) = await retriever.search([query], config.passages_per_step)
    seen = {hit.passage.id for earlier in searches for hit in earlier}
    new = tuple(hit for hit in hits if hit.passage.id not in seen)
    if not config.passage_limit:
        return new
    return await asyncio.to_thread(_cut, new, config.passage_limit, engine)


def _cut(hits: Sequence[Hit], limit: int, engine: Engine) -> tuple[Hit, ...]:
    """The hits with passages of at most `limit` tokens."""
    return tuple(
        replace(hit, passage=cut_passage(hit.passage, limit, engine.count_text)) for hit in hits
    )


def _trajectory(
    searches: Sequence[Sequence[Hit]], steps: Sequence[Step], answer: str, stop_reason: StopReason
) -> Trajectory:
    """The trajectory of a finished chain; searches: the new hits of each step."""
    hits = [hit for new in searches for hit in new]
    return Trajectory(
        passages=tuple(hit.passage for hit in hits),
        scores=tuple(hit.score for hit in hits),
        steps=tuple(steps),
        answer=answer,
        stop_reason=stop_reason,
    )
