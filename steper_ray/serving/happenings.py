"""What happens while a question is answered, as it happens, with signs of life in silence."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from steper_ray.reasoning.loop import PassagesFound, SearchStarted
from steper_ray.serving.api.schema import AnswerOut, StepOut

T = TypeVar("T")


KEEP_ALIVE_S: Final = 15.0
"""Seconds without an event after which a stream sends a sign of life."""


@dataclass(frozen=True, slots=True)
class TextPiece:
    """A piece of the text of a step."""

    step: int
    text: str


@dataclass(frozen=True, slots=True)
class StepReady:
    """A step is done."""

    step: StepOut
    last: bool


@dataclass(frozen=True, slots=True)
class AnswerReady:
    """Last event of a stream: the answer."""

    answer: AnswerOut


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Sign of life of a stream after a silence: the work continues."""


ServiceEvent = SearchStarted | PassagesFound | TextPiece | StepReady | AnswerReady | KeepAlive


async def happenings(
    happened: "asyncio.Queue[T | KeepAlive | None]", work: Coroutine[Any, Any, None]
) -> AsyncGenerator[T | KeepAlive, None]:
    """What work puts into a queue until it ends, and signs of life between; raises what the work raises.

    The work is a task of its own: Starlette asks for the first item in one task and for the later ones in
    another, so a deadline around a `yield` would cancel the wrong one. Closing the iterator cancels it.
    """
    task = asyncio.create_task(work)
    task.add_done_callback(lambda _task: happened.put_nowait(None))
    try:
        while (item := await _next(happened)) is not None:
            yield item
        await task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _next(happened: "asyncio.Queue[T | KeepAlive | None]") -> T | KeepAlive | None:
    try:
        return await asyncio.wait_for(happened.get(), KEEP_ALIVE_S)
    except TimeoutError:
        return KeepAlive()
