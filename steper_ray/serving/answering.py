"""Answering a question in the ingress: admission, reasoning, events, deadline. Plain Python, without Ray.

The work is done by a `Backend`: replicas behind Ray Serve, or a scripted one in tests.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from steper_ray.engines.protocol import GREEDY, Engine, Sampling
from steper_ray.errors import ReplicaLostError, RowError
from steper_ray.reasoning.loop import Event, StepFinished, Trajectory, reason
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval.protocol import Hit
from steper_ray.schema import Step
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.serving.admission import Admission
from steper_ray.serving.api.schema import AnswerOut, PassageOut, StepOut
from steper_ray.serving.backend import Backend
from steper_ray.serving.keys import Scope
from steper_ray.serving.overrides import ServingReasoning
from steper_ray.serving.refusals import RefusedError
from steper_ray.serving.request import current_request
from steper_ray.serving.settings import ServeConfig
from steper_ray.serving.tracing import SEARCH, LoopSpans, span

Record = Callable[..., None]
"""`record(name, value, **tags)`: see `steper_ray.serving.metrics`."""


SCOPES: Final[dict[str, Scope]] = {
    "whole": "answer",
    "stream": "answer",
    "search": "search",
    "chat": "plain",
}
"""How a place is used → the scope that a key needs for it."""


KEEP_ALIVE_S: Final = 15.0
"""Seconds without an event after which a stream sends a sign of life."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of the text of a step."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class AnswerReady:
    """Last event of a stream: the answer."""

    answer: AnswerOut


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Sign of life of a stream after a silence: the work continues."""


ServiceEvent = Event | TextPiece | AnswerReady | KeepAlive


class AnswerService:
    """Answers questions step by step."""

    def __init__(
        self,
        backend: Backend,
        reasoning: ServingReasoning,
        config: ServeConfig,
        *,
        model: str,
        places: int,
        record: Record = lambda *_args, **_tags: None,
    ) -> None:
        self.backend, self.reasoning, self.config = backend, reasoning, config
        self.model = model
        """Name of the model in the API."""
        self.admission = Admission(
            places, changed=lambda taken: record("steper_places_taken", taken)
        )
        self.record = record

    def settings(self, changes: Mapping[str, Any]) -> ReasoningConfig:
        """Reasoning settings of a request, with its overrides; raises RefusedError beyond the limits."""
        for name, most in (
            ("passages_per_step", self.config.max_requested_passages_per_step),
            ("max_steps", self.config.max_requested_steps),
        ):
            self.check_most(name, changes.get(name, 0), most)
        return self.reasoning.with_changes(changes)

    def check_most(self, param: str, value: int, most: int) -> None:
        """Raises RefusedError for a number over its limit."""
        if value > most:
            raise RefusedError(
                422, "too_large", f"{param}: {value} is over this server's {most}", param=param
            )

    def check_question(self, question: str, param: str = "question") -> None:
        """Raises RefusedError for a question that is too long."""
        length, most = len(question), self.config.max_question_chars
        if length > most:
            message = f"{param}: {length} characters are over this server's {most}"
            raise RefusedError(422, "too_long", message, param=param)

    async def answer(
        self, question: str, settings: ReasoningConfig, sampling: Sampling = GREEDY
    ) -> AnswerOut:
        """Answer a question.

        The work of a replica that dies is retried on another one, until the deadline. Raises RefusedError
        without a free place, past the deadline, or for a prompt that the engine refuses.
        """
        with self._place("whole"):
            return await self._reason(question, settings, sampling, self.backend.engine())

    async def stream(
        self, question: str, settings: ReasoningConfig, sampling: Sampling = GREEDY
    ) -> AsyncGenerator[ServiceEvent, None]:
        """Answer a question and yield events as they happen; the last one is `AnswerReady`.

        Nothing is yielded before the question has a place. Raises what `answer` raises, and RefusedError
        when a replica dies, as its text has been sent already. Closing the iterator cancels the work.
        """
        with self._place("stream"):
            happened: asyncio.Queue[ServiceEvent | None] = asyncio.Queue()
            at = 1

            def watch(event: Event) -> None:
                nonlocal at
                happened.put_nowait(event)
                at += isinstance(event, StepFinished)

            engine = self.backend.engine(lambda text: happened.put_nowait(TextPiece(at, text)))
            work = asyncio.create_task(self._reason(question, settings, sampling, engine, watch))
            work.add_done_callback(lambda _work: happened.put_nowait(None))
            try:
                while (event := await _next(happened)) is not None:
                    yield event
                yield AnswerReady(await work)
            finally:
                work.cancel()
                await asyncio.wait([work])

    async def answer_batch(
        self, questions: Sequence[str], settings: ReasoningConfig
    ) -> list[AnswerOut | RefusedError]:
        """Answer several questions, in at most half of the places; one failure affects no other.

        Raises RefusedError if no place is free.
        """
        request = current_request()
        if request.place is None:
            self.admission.check_free(request.owner)
        share = min(self.admission.most // 2, self.admission.places_of(request.owner))
        at_once = asyncio.Semaphore(max(1, share))

        async def one(question: str) -> AnswerOut | RefusedError:
            async with at_once:
                try:
                    return await self.answer(question, settings)
                except RefusedError as refused:
                    return refused

        async with (
            asyncio.TaskGroup() as group
        ):  # cancels the other questions on an unexpected error
            tasks = [group.create_task(one(question)) for question in questions]
        return [task.result() for task in tasks]

    async def search(self, query: str, k: int) -> tuple[list[PassageOut], float]:
        """The k best passages and the seconds of the search; raises RefusedError as `answer` does."""
        with self._place("search"):
            started = time.monotonic()
            async with self._bounded():
                with span(SEARCH):
                    (hits,) = await self.backend.retriever.search([query], k)
            seconds = time.monotonic() - started
        self.record("steper_search_seconds", seconds)
        return [passage_out(hit) for hit in hits], seconds

    async def chat(self, body: Mapping[str, Any]) -> str:
        """The plain model's OpenAI response to a chat, as JSON; raises RefusedError as `answer` does."""
        with self._place("chat"):
            async with self._bounded():
                response = await self.backend.chat(body)
            count_chat(response)
            return response

    async def chat_stream(self, body: Mapping[str, Any]) -> AsyncGenerator[str, None]:
        """The plain model's response as server-sent events; raises RefusedError as `stream` does."""
        with self._place("chat"):
            parts = self.backend.chat_stream(body)
            ends = asyncio.get_running_loop().time() + self.config.request_timeout_s
            while True:
                # a timeout for each part: one around a yield would cancel the task that asked for the first
                # part, and Starlette asks for the later parts in another task
                async with self._bounded(ends):
                    part = await anext(parts, None)
                if part is None:
                    return
                count_chat(part)
                yield part

    async def _reason(
        self,
        question: str,
        settings: ReasoningConfig,
        sampling: Sampling,
        engine: Engine,
        watch: Callable[[Event], None] | None = None,
    ) -> AnswerOut:
        started = time.monotonic()
        async with self._bounded():
            with LoopSpans(watch) as spans:
                reasoned = await reason(
                    question,
                    engine=engine,
                    retriever=self.backend.retriever,
                    config=settings,
                    sampling=sampling,
                    watch=spans,
                )
        answer = self._answer_out(reasoned, settings, time.monotonic() - started)
        self._measure(answer)
        return answer

    def _answer_out(
        self, reasoned: Trajectory, settings: ReasoningConfig, seconds: float
    ) -> AnswerOut:
        """The answer as the API shows it."""
        steps = steps_out(reasoned, self.reasoning.scheme)
        return AnswerOut(
            answer=reasoned.answer,
            stop_reason=reasoned.stop_reason,
            finish_reason="length" if reasoned.steps[-1].is_cut_off else "stop",
            steps=steps,
            seconds=seconds,
            prompt_tokens=sum(step.prompt_tokens for step in steps),
            generated_tokens=sum(step.generated_tokens for step in steps),
            cached_tokens=sum(step.cached_tokens or 0 for step in steps),
            model=self.model,
            corpus_version=self.reasoning.corpus_version,
            overrides=self.reasoning.overrides(settings),
        )

    def _measure(self, answer: AnswerOut) -> None:
        current_request().tokens += answer.prompt_tokens + answer.generated_tokens
        self.record("steper_answer_seconds", answer.seconds)
        self.record("steper_stops_total", 1, reason=answer.stop_reason)
        self.record("steper_steps_total", len(answer.steps))
        for kind in ("prompt", "generated", "cached"):
            self.record("steper_tokens_total", getattr(answer, f"{kind}_tokens"), kind=kind)
        for step in answer.steps:
            self.record("steper_search_seconds", step.search_seconds)
            self.record("steper_generate_seconds", step.generate_seconds)

    @contextlib.asynccontextmanager
    async def _bounded(self, ends: float | None = None) -> AsyncIterator[None]:
        """Cancel the block at the deadline, and turn the backend's errors into refusals.

        ends: the deadline, by the event loop's clock; by default `serve.request_timeout_s` from now
        """
        seconds = self.config.request_timeout_s
        if ends is None:
            ends = asyncio.get_running_loop().time() + seconds
        try:
            async with asyncio.timeout_at(ends):
                yield
        except TimeoutError:
            message = f"not done within this server's {seconds:g} seconds; asking again is safe"
            raise RefusedError(504, "deadline", message) from None
        except RowError as error:
            raise RefusedError(422, "prompt_refused", str(error)) from None
        except ReplicaLostError as error:
            message = f"{error}; asking again is safe"
            raise RefusedError(503, "replica_lost", message, retry_after=1) from None

    @contextlib.contextmanager
    def _place(self, how: str) -> Iterator[None]:
        """Admit a question and count its outcome; raises RefusedError if the server is full."""
        outcome, request = "failed", current_request()
        try:
            request.check_scope(SCOPES[how])
            with self.admission.hold_place(request):
                yield
            outcome = "answered"
        except RefusedError as refused:
            outcome = refused.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            outcome = "cancelled"
            raise
        finally:
            self.record("steper_questions_total", 1, how=how, outcome=outcome)


async def _next(happened: "asyncio.Queue[ServiceEvent | None]") -> ServiceEvent | None:
    try:
        return await asyncio.wait_for(happened.get(), KEEP_ALIVE_S)
    except TimeoutError:
        return KeepAlive()


def count_chat(response: str) -> None:
    """Count the tokens that a response of vLLM, or an event of its stream, says it took."""
    if said := re.search(r'"total_tokens": *(\d+)', response):
        current_request().tokens = int(said[1])


def passage_out(hit: Hit) -> PassageOut:
    """A passage as the API shows it."""
    passage = hit.passage
    return PassageOut(id=passage.id, title=passage.title, text=passage.text, score=hit.score)


def step_out(number: int, step: Step, passages: list[PassageOut], ability: str) -> StepOut:
    """A step as the API shows it."""
    return StepOut(
        step=number,
        ability=ability,
        query=step.query,
        passages=passages,
        rationale=step.rationale,
        thought=step.thought,
        prompt_tokens=step.prompt_tokens,
        generated_tokens=step.generated_tokens,
        cached_tokens=step.cached_tokens,
        dropped_passages=step.dropped_passages,
        search_seconds=step.search_seconds,
        generate_seconds=step.generate_seconds,
        finish_reason=step.finish_reason,
    )


def steps_out(reasoned: Trajectory, scheme: AbilityScheme) -> list[StepOut]:
    """The steps of a chain, each with the passages its search added."""
    hits = map(Hit, reasoned.passages, reasoned.scores)
    found = {hit.passage.id: passage_out(hit) for hit in hits}
    return [
        step_out(
            number,
            step,
            [found[passage_id] for passage_id in step.passage_ids],
            scheme.of(number, len(reasoned.steps)),
        )
        for number, step in enumerate(reasoned.steps, 1)
    ]
