"""The Ray Data actor that answers questions: one engine, one retriever, many questions at a time."""

import asyncio
import gc
import os
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.asking import ask
from steper_ray.chains.attempts import MissingAttempts
from steper_ray.chains.busy_window import step_seconds
from steper_ray.chains.rows import attempts_from_row
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage
from steper_ray.engines.endpoint import EndpointEngine
from steper_ray.engines.vllm_engine import VLLMEngine
from steper_ray.errors import StageError
from steper_ray.ray_runtime.logs import redirect_output
from steper_ray.retrieval import open_retriever, search_in_one_thread
from steper_ray.schema import Chain

if TYPE_CHECKING:
    import pyarrow as pa


MAX_CONSECUTIVE_FAILURES: Final = 50
"""So many failed questions in a row, on one actor, end the stage: the fault is not theirs."""


REPORT_INTERVAL_S: Final = 0.5
"""Between two reports of an actor on what it has done."""


class ChainActor:
    """The Ray Data actor: an engine, a retriever, and as many chains at once as they can take."""

    def __init__(self, reasoner: Reasoner, corpus: Path, log: Path, tally: Any) -> None:
        import ray

        redirect_output(log)
        # The searches of many questions fill a core by themselves; more threads only disturb the engine.
        search_in_one_thread()
        self._reasoner, self._log, self._tally = reasoner, log, tally
        self._retriever = open_retriever(corpus)
        self._engine: VLLMEngine | EndpointEngine | None = None
        self._starting = asyncio.Lock()
        self._places = asyncio.Semaphore(reasoner.at_once)
        self._failures = 0
        """Questions that failed since the last one that did not."""
        here = ray.get_runtime_context().current_actor
        self._starts, self._reason = ray.get(tally.start.remote(here))
        self._counted = (0, 0, 0.0)
        """Searches, those from memory, and CPU seconds that are counted."""
        self._did, self._told_at = EngineUsage(), 0.0
        self._untold: list[tuple[float, tuple[float, ...]]] = []
        """When questions were done that the tally does not know of, and how long their pieces took."""

    async def __call__(self, batch: "pa.Table") -> AsyncIterator["pa.Table"]:
        import pyarrow as pa

        async with self._starting:
            if self._engine is None:
                self._engine = self._start()
                gc.collect()
                gc.freeze()  # what was imported stays; looking through it again and again costs
                self._tally.ready.remote()
                self._counted = (0, 0, time.process_time())
        work = [self._ask(attempts_from_row(row)) for row in batch.to_pylist()]
        rows = [asdict(chain) for chains in await asyncio.gather(*work) for chain in chains]
        self._tell()
        yield pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)

    def _taken(self, chains: Sequence[Chain]) -> EngineUsage:
        """What these chains took, and the searches since the last ones."""
        steps = [step for chain in chains for step in chain.steps]
        searches = self._retriever.counts
        before, now = self._counted, (searches.asked, searches.cached, time.process_time())
        self._counted = now
        return EngineUsage(
            asked=1,
            chains=len(chains),
            prompt_tokens=sum(step.prompt_tokens for step in steps),
            cached_tokens=sum(step.cached_tokens or 0 for step in steps),
            generated_tokens=sum(step.generated_tokens for step in steps),
            searches=now[0] - before[0],
            remembered=now[1] - before[1],
            cpu_seconds=now[2] - before[2],
        )

    def _start(self) -> "VLLMEngine | EndpointEngine":
        reasoner = self._reasoner
        restarts = self._starts - reasoner.engine.replicas
        if restarts > reasoner.engine.max_restarts:
            why = self._reason or "they were killed, or ran out of memory"
            raise StageError(
                f"engines had to be started again {restarts} times, more than engine.max_restarts allows; "
                f"the last because: {why}; see {self._log}"
            )
        if reasoner.endpoint is not None:
            return EndpointEngine(reasoner.model, reasoner.endpoint, reasoner.hub)
        return VLLMEngine(
            reasoner.model,
            reasoner.engine,
            reasoner.reasoning,
            reasoner.hub,
            reasoner.revision,
        )

    async def _ask(self, wanted: MissingAttempts) -> list[Chain]:
        """The chains of one sample, as soon as there is a place for it."""
        from vllm.v1.engine.exceptions import EngineDeadError

        assert self._engine is not None
        async with self._places:
            begun = time.monotonic()
            try:
                chains = await ask(
                    wanted,
                    reasoner=self._reasoner,
                    engine=self._engine,
                    retriever=self._retriever,
                )
            except EngineDeadError as error:
                print(f"the engine died: {error}; this actor ends so that its work is retried")
                sys.stdout.flush()
                await self._tally.died.remote(" ".join(str(error).split()))
                os._exit(1)
        self._failures = self._failures + 1 if chains[-1].error is not None else 0
        if self._failures >= MAX_CONSECUTIVE_FAILURES:
            raise StageError(
                f"{MAX_CONSECUTIVE_FAILURES} questions in a row could not be worked on, the last because: "
                f"{chains[-1].error}"
            )
        steps = [s.search_seconds + s.generate_seconds for c in chains for s in c.steps]
        done = time.monotonic()
        self._untold.append((done, step_seconds(steps, done - begun)))
        self._did += self._taken(chains)
        if done - self._told_at > REPORT_INTERVAL_S:
            self._tell()
        return chains

    def _tell(self) -> None:
        """Tell the tally what was done since it was told last; times as ages, for clocks differ."""
        self._told_at = now = time.monotonic()
        ages = [(now - done, seconds) for done, seconds in self._untold]
        self._tally.add.remote(self._did, ages)
        self._did, self._untold = EngineUsage(), []
