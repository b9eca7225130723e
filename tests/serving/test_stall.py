"""Engines that write, hang and rest, and a search that hangs, by a clock of the test."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from steper_ray.retrieval.protocol import Hit
from steper_ray.serving.stall import PROBE_EVERY_S, EngineWatch, StalledError, WatchedRetriever

STALL_S = 60.0


class Clock:
    """Stands still until it is set."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeLLM:
    """The parts of vLLM's AsyncLLM that are watched."""

    def __init__(self) -> None:
        self.unfinished = 0
        self.seen: list[Any] = []
        self.asked: list[Any] = []
        self.output_processor = SimpleNamespace(
            process_outputs=lambda outputs, *more: self.seen.append((outputs, *more)),
            get_num_unfinished_requests=lambda: self.unfinished,
        )

    async def generate(self, prompt: Any, parameters: Any, request_id: str) -> AsyncIterator[Any]:
        self.asked.append((prompt, parameters.max_tokens))
        self.unfinished += 1
        await asyncio.Event().wait()
        yield


def test_an_engine_with_requests_and_no_token_hangs() -> None:
    clock, llm = Clock(), FakeLLM()
    watch = EngineWatch(llm, STALL_S, clock)
    llm.unfinished = 3
    for _ in range(10):  # slow, but it writes
        clock.now += STALL_S - 1
        llm.output_processor.process_outputs(["a token"], "more")
        watch.check()
    assert llm.seen == [(["a token"], "more")] * 10
    clock.now += STALL_S
    llm.output_processor.process_outputs([])  # nothing came
    watch.check()
    clock.now += 1
    with pytest.raises(StalledError, match="no token for 61 s"):
        watch.check()


async def _rests() -> None:
    clock, llm = Clock(), FakeLLM()
    watch = EngineWatch(llm, STALL_S, clock)
    clock.now += PROBE_EVERY_S
    watch.check()
    await asyncio.sleep(0)
    assert llm.asked == []
    clock.now += 1
    for _ in range(3):
        watch.check()
        await asyncio.sleep(0.01)
    assert llm.asked == [({"prompt_token_ids": [0]}, 1)]  # one, for one token
    clock.now += STALL_S
    watch.check()  # it has had since the last look, when it was at rest
    clock.now += 1
    with pytest.raises(StalledError):
        watch.check()


def test_an_engine_at_rest_is_asked_for_a_token_and_hangs_if_none_comes() -> None:
    asyncio.run(_rests())


def test_a_request_after_a_long_rest_has_the_whole_time() -> None:
    clock, llm = Clock(), FakeLLM()
    watch = EngineWatch(llm, STALL_S, clock)
    watch._last_token = clock.now + 10 * STALL_S  # no probe, which needs an event loop
    clock.now += 5 * STALL_S
    watch.check()
    llm.unfinished = 1
    clock.now += STALL_S
    watch.check()


class HangingRetriever:
    version = "v"

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        if queries[0] == "hang":
            await asyncio.Event().wait()
        return [[] for _ in queries]


async def _searches() -> None:
    clock = Clock()
    watched = WatchedRetriever(HangingRetriever(), STALL_S, clock)
    hangs = asyncio.create_task(watched.search(["hang"], 2))
    await asyncio.sleep(0)
    clock.now += STALL_S
    assert await watched.search(["a", "b"], 2) == [[], []]
    watched.check()
    clock.now += 1
    with pytest.raises(StalledError, match="a search has been under way for 61 s"):
        watched.check()
    hangs.cancel()
    await asyncio.wait([hangs])
    watched.check()


def test_a_search_hangs_while_others_come_and_go() -> None:
    asyncio.run(_searches())
