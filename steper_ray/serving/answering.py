"""Answering a question in the ingress: admission, reasoning, events, deadline. Plain Python, without Ray.

The work is done by a `Backend`: replicas behind Ray Serve, or a scripted one in tests.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Final

from steper_ray.engines.protocol import GREEDY, Engine, Sampling
from steper_ray.errors import ModelRefusedError, ReplicaLostError, RowError, find_steper_error
from steper_ray.reasoning.loop import Event, StepFinished, Trajectory, reason
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.serving.admission import Admission
from steper_ray.serving.answered_steps import AnsweredSteps, passage_out
from steper_ray.serving.api.schema import AnswerOut, PassageOut
from steper_ray.serving.backend import Backend
from steper_ray.serving.happenings import (
    AnswerReady,
    KeepAlive,
    ServiceEvent,
    StepReady,
    TextPiece,
    happenings,
)
from steper_ray.serving.keys import Scope
from steper_ray.serving.overrides import ServingReasoning
from steper_ray.serving.plain_model import PlainRequest
from steper_ray.serving.refusals import RefusedError
from steper_ray.serving.request import current_request
from steper_ray.serving.settings import ServeConfig
from steper_ray.serving.tracing import SEARCH, LoopSpans, span

logger = logging.getLogger(__name__)


Record = Callable[..., None]
"""`record(name, value, **tags)`: see `steper_ray.serving.metrics`."""


SCOPES: Final[dict[str, Scope]] = {
    "whole": "answer",
    "stream": "answer",
    "search": "search",
    "chat": "plain",
}
"""How a place is used → the scope that a key needs for it."""


NOT_FOUND: Final = "not found in the corpus"
"""The answer with `serve.refuse_unsupported` where the student's own is not supported."""


ABOUT_MODEL_S: Final = 1.0
"""Seconds that a request about the model waits for the model."""


@dataclass(frozen=True, slots=True)
class _Reasoned:
    """The end of the reasoning: what it came to, and its seconds."""

    trajectory: Trajectory
    seconds: float


class AnswerService:
    """Answers questions step by step."""

    def __init__(
        self,
        backend: Backend,
        reasoning: ServingReasoning,
        config: ServeConfig,
        *,
        model: str,
        model_version: str,
        places: int,
        record: Record = lambda *_args, **_tags: None,
    ) -> None:
        self.backend, self.reasoning, self.config = backend, reasoning, config
        self.model = model
        """Name of the model in the API."""
        self.model_version = model_version
        """Which model it is, by its content."""
        self.admission = Admission(
            places, changed=lambda taken: record("steper_places_taken", taken)
        )
        self._max_model_len: int | None = None
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
        finished: list[StepFinished] = []

        def watch(event: Event) -> None:
            if isinstance(event, StepFinished):
                finished.append(event)

        with self._place("whole"):
            engine = self.backend.engine()
            reasoned = await self._reason(question, settings, sampling, engine, watch)
            steps = AnsweredSteps(question, self.reasoning.scheme)
            await asyncio.to_thread(steps.extend, finished)
            return self._answer_out(reasoned, steps, settings)

    async def stream(
        self, question: str, settings: ReasoningConfig, sampling: Sampling = GREEDY
    ) -> AsyncGenerator[ServiceEvent, None]:
        """Answer a question and yield events as they happen; the last one is `AnswerReady`.

        Nothing is yielded before the question has a place. Raises what `answer` raises, and RefusedError
        when a replica dies, as its text has been sent already. Closing the iterator cancels the work.
        """
        happened: asyncio.Queue[Event | TextPiece | _Reasoned | KeepAlive | None] = asyncio.Queue()
        at = 1

        def watch(event: Event) -> None:
            nonlocal at
            happened.put_nowait(event)
            at += isinstance(event, StepFinished)

        async def work() -> None:
            engine = self.backend.engine(lambda text: happened.put_nowait(TextPiece(at, text)))
            reasoned = await self._reason(question, settings, sampling, engine, watch)
            happened.put_nowait(reasoned)

        steps = AnsweredSteps(question, self.reasoning.scheme)
        with self._place("stream"):
            async with aclosing(happenings(happened, work())) as events:
                async for event in events:
                    match event:
                        case StepFinished():
                            yield StepReady(await asyncio.to_thread(steps.add, event), event.last)
                        case _Reasoned():
                            yield AnswerReady(self._answer_out(event, steps, settings))
                        case _:
                            yield event

    async def answer_batch(
        self, questions: Sequence[str], settings: ReasoningConfig
    ) -> list[AnswerOut | RefusedError]:
        """Answer several questions, in at most half of the places; one failure affects no other.

        At the deadline of the batch (`serve.batch_timeout_s`) the questions that are not answered get an
        error. Raises RefusedError if no place is free.
        """
        request = current_request()
        if request.place is None:
            self.admission.check_free(request.owner)
        share = min(self.admission.most // 2, self.admission.places_of(request.owner))
        at_once = asyncio.Semaphore(max(1, share))
        seconds = self.config.batch_seconds
        ends = asyncio.get_running_loop().time() + seconds

        async def one(question: str) -> AnswerOut | RefusedError:
            try:
                async with asyncio.timeout_at(ends), at_once:
                    return await self.answer(question, settings)
            except RefusedError as refused:
                return refused
            except TimeoutError:
                message = f"the batch's {seconds:g} seconds are over; asking again is safe"
                return RefusedError(504, "deadline", message)
            except Exception:
                logger.exception("a question of a batch failed")
                return RefusedError(500, "internal", "the server failed; its log says why")

        async with asyncio.TaskGroup() as group:  # cancels the questions with the batch
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

    async def chat(self, request: PlainRequest) -> str:
        """The plain model's OpenAI response, as JSON; raises RefusedError as `answer` does."""
        with self._place("chat"):
            async with self._bounded():
                response = await self.backend.chat(request)
            count_chat(response)
            return response

    async def chat_stream(self, request: PlainRequest) -> AsyncGenerator[str | KeepAlive, None]:
        """The plain model's response as server-sent events; raises RefusedError as `stream` does."""
        happened: asyncio.Queue[str | KeepAlive | None] = asyncio.Queue()

        async def write() -> None:
            async with self._bounded():
                async for part in self.backend.chat_stream(request):
                    happened.put_nowait(part)

        with self._place("chat"):
            async with aclosing(happenings(happened, write())) as parts:
                async for part in parts:
                    if isinstance(part, str):
                        count_chat(part)
                    yield part

    async def max_model_len(self) -> int | None:
        """Context of the model in tokens; None while the model does not answer."""
        if self._max_model_len is None:
            with contextlib.suppress(TimeoutError, ReplicaLostError):
                async with asyncio.timeout(ABOUT_MODEL_S):
                    self._max_model_len = await self.backend.max_model_len()
        return self._max_model_len

    async def _reason(
        self,
        question: str,
        settings: ReasoningConfig,
        sampling: Sampling,
        engine: Engine,
        watch: Callable[[Event], None],
    ) -> "_Reasoned":
        started = time.monotonic()
        async with self._bounded():
            with LoopSpans(watch) as spans:
                trajectory = await reason(
                    question,
                    engine=engine,
                    retriever=self.backend.retriever,
                    config=settings,
                    sampling=sampling,
                    watch=spans,
                )
        return _Reasoned(trajectory, time.monotonic() - started)

    def _answer_out(
        self, reasoned: "_Reasoned", answered: AnsweredSteps, settings: ReasoningConfig
    ) -> AnswerOut:
        """The answer as the API shows it, measured."""
        trajectory, steps = reasoned.trajectory, answered.steps
        unknown = answered.unknown_names()
        supported = not unknown and not any(step.unsupported for step in steps)
        refused = self.config.refuse_unsupported and not supported
        answer = AnswerOut(
            answer=NOT_FOUND if refused else trajectory.answer,
            supported=supported,
            unknown_names=unknown,
            stop_reason=trajectory.stop_reason,
            finish_reason="length" if trajectory.steps[-1].is_cut_off else "stop",
            steps=steps,
            seconds=reasoned.seconds,
            prompt_tokens=sum(step.prompt_tokens for step in steps),
            generated_tokens=sum(step.generated_tokens for step in steps),
            cached_tokens=sum(step.cached_tokens or 0 for step in steps),
            model=self.model,
            model_version=self.model_version,
            corpus_version=self.reasoning.corpus_version,
            overrides=self.reasoning.overrides(settings),
        )
        self._measure(answer)
        return answer

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
    async def _bounded(self) -> AsyncIterator[None]:
        """Cancel the block at the deadline, and turn the backend's errors into refusals."""
        seconds = self.config.request_timeout_s
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            message = f"not done within this server's {seconds:g} seconds; asking again is safe"
            raise RefusedError(504, "deadline", message) from None
        except ModelRefusedError as error:
            raise _model_refused(error) from None
        except RowError as error:
            told = find_steper_error(error) or error  # without the traceback that Ray adds
            raise RefusedError(422, "prompt_refused", str(told)) from None
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


def count_chat(response: str) -> None:
    """Count the tokens that a response of vLLM, or an event of its stream, says it took."""
    if said := re.search(r'"total_tokens": *(\d+)', response):
        current_request().tokens = int(said[1])


def _model_refused(error: ModelRefusedError) -> RefusedError:
    """The refusal of a request that the plain model's interface refuses."""
    code = "internal" if error.status >= 500 else "invalid"
    code = "too_long" if error.too_long else code
    told = find_steper_error(error) or error
    return RefusedError(error.status, code, str(told), param=error.param)
