"""Notices work that has come to a standstill, so that Serve replaces the replica that does it.

An engine or a search that hangs raises nothing: its process lives, and its clients wait until their
deadline. A busy one is slow, but something of it happens all the time: of all the requests together there
is a token every moment. So an engine hangs if it has unfinished requests and no token came for
`serve.stall_s`; one without requests is asked for a token now and then. A search hangs if it has been under
way for as long.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final

from steper_ray.engines.protocol import GREEDY
from steper_ray.engines.vllm_engine import run_request
from steper_ray.errors import EngineDiedError, ReplicaLostError
from steper_ray.retrieval.protocol import Hit, Retriever

PROBE_EVERY_S: Final = 10.0
"""Seconds without a token after which an engine without requests is asked for one."""


PROBE: Final = [0]
"""Prompt of that request, in token ids: any will do."""


class StalledError(ReplicaLostError):
    """Work makes no progress any more."""


class EngineWatch:
    """Watches an `AsyncLLM`."""

    def __init__(
        self, llm: Any, stall_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """stall_s: seconds without a token after which an engine with requests hangs"""
        self._llm, self._stall_s, self._clock = llm, stall_s, clock
        self._alive = clock()
        """When the last token came, or the engine was last seen without requests."""
        self._last_token = self._alive
        self._probe: asyncio.Task[None] | None = None
        processor = llm.output_processor
        process = processor.process_outputs

        def watched(outputs: Any, *more: Any, **named: Any) -> Any:
            if outputs:
                self._last_token = self._alive = clock()
            return process(outputs, *more, **named)

        # Requests that want their whole text wake nobody for a token, and vLLM offers no other place where
        # all tokens of all requests come by.
        processor.process_outputs = watched

    def check(self) -> None:
        """Raises StalledError if the engine hangs; asks an idle one for a token. To be called often."""
        now = self._clock()
        if not self._llm.output_processor.get_num_unfinished_requests():
            self._alive = now
            if now - self._last_token > PROBE_EVERY_S and (
                self._probe is None or self._probe.done()
            ):
                self._probe = asyncio.get_running_loop().create_task(self._ask())
        elif now - self._alive > self._stall_s:
            raise StalledError(f"the engine wrote no token for {now - self._alive:.0f} s")

    async def _ask(self) -> None:
        """One token. A dead engine is noticed by its own check."""
        asked = run_request(
            self._llm, PROBE, stop=(), max_tokens=1, sampling=GREEDY, seeded=False, logprobs=False
        )
        with suppress(EngineDiedError):
            async for _ in asked:
                pass


class WatchedRetriever:
    """A `Retriever` that knows since when its oldest search has been under way."""

    def __init__(
        self, retriever: Retriever, stall_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """stall_s: seconds after which a search that is under way hangs"""
        self._retriever, self._stall_s, self._clock = retriever, stall_s, clock
        self._begun: dict[object, float] = {}

    @property
    def version(self) -> str:
        """Version of the corpus."""
        return self._retriever.version

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """See `Retriever.search`."""
        search = object()
        self._begun[search] = self._clock()
        try:
            return await self._retriever.search(queries, k)
        finally:
            del self._begun[search]

    def check(self) -> None:
        """Raises StalledError if a search hangs."""
        if self._begun:
            seconds = self._clock() - min(self._begun.values())
            if seconds > self._stall_s:
                raise StalledError(f"a search has been under way for {seconds:.0f} s")
