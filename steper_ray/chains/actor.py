"""The Ray Data actor that answers questions: one engine, one retriever, many questions at a time."""

import asyncio
import gc
import logging
import os
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.asking import ask
from steper_ray.chains.attempts import MissingAttempts
from steper_ray.chains.busy_window import step_seconds
from steper_ray.chains.metrics import actor_metrics, record_sample
from steper_ray.chains.rows import attempts_from_row
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage, counted_restarts
from steper_ray.engines.protocol import Engine
from steper_ray.engines.start import start_engine
from steper_ray.errors import EngineDiedError, StageError
from steper_ray.ray_runtime.logs import LaunchLog, start_log
from steper_ray.retrieval import limit_lance_threads, open_retriever
from steper_ray.schema import Chain, Step
from steper_ray.text import squeeze

if TYPE_CHECKING:
    import pyarrow as pa


logger = logging.getLogger(__name__)


MAX_CONSECUTIVE_FAILURES: Final = 50
"""Stop the stage after this many consecutive failures on one actor; the cause is then not the questions."""


REPORT_INTERVAL_S: Final = 0.5
"""Shortest time between two reports of an actor to the tally."""


class ChainActor:
    """The Ray Data actor: an engine, a retriever, and as many questions at a time as the engine takes."""

    def __init__(self, reasoner: Reasoner, corpus: Path, log: LaunchLog, tally: Any) -> None:
        import ray

        runtime = ray.get_runtime_context()
        own_id = runtime.get_actor_id()
        assert own_id is not None
        start = tally.start.remote(runtime.current_actor, own_id, counted_restarts(own_id))
        self._starts, self._restarts, self._reason = ray.get(start)
        start_log(log, "chains", self._starts - 1)
        self._record = actor_metrics(log)
        self._record("steper_asking_starts_total", 1)
        logger.info("start %d of an actor for %s", self._starts, reasoner.model)
        # Searches of many questions fill one core anyway; more threads would only disturb the engine.
        limit_lance_threads()
        self._reasoner, self._log, self._tally = reasoner, log, tally
        self._retriever = open_retriever(corpus)
        self._engine: Engine | None = None
        self._starting = asyncio.Lock()
        self._slots = asyncio.Semaphore(reasoner.at_once)
        self._failures = 0
        """Consecutive failures."""
        self._counted = (0, 0, 0.0)
        """Searches, searches from memory and CPU seconds that the reported usage includes."""
        self._unreported, self._reported_at = EngineUsage(), 0.0
        self._answered: list[tuple[float, tuple[float, ...]]] = []
        """When the unreported samples were answered, and the seconds of each of their steps."""

    async def __call__(self, batch: "pa.Table") -> AsyncIterator["pa.Table"]:
        import pyarrow as pa

        async with self._starting:
            if self._engine is None:
                self._engine = self._start()
                logger.info("the engine is ready")
                gc.collect()
                gc.freeze()  # imported modules stay for ever; scanning them at each collection costs time
                self._tally.ready.remote()
                self._record("steper_asking_engines", 1)
                self._counted = (0, 0, time.process_time())
        work = [self._ask(attempts_from_row(row)) for row in batch.to_pylist()]
        rows = [asdict(chain) for chains in await asyncio.gather(*work) for chain in chains]
        self._report()
        logger.info("%d questions done, %d chains", len(work), len(rows))
        yield pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)

    def _usage_of(self, chains: int, steps: Sequence[Step]) -> EngineUsage:
        """Usage of one answered sample, with the searches and CPU seconds since the last one.

        chains: that were made; steps: that were written for them
        """
        searches = self._retriever.counts
        before, now = self._counted, (searches.asked, searches.cached, time.process_time())
        self._counted = now
        return EngineUsage(
            asked=1,
            chains=chains,
            prompt_tokens=sum(step.prompt_tokens for step in steps),
            cached_tokens=sum(step.cached_tokens or 0 for step in steps),
            generated_tokens=sum(step.generated_tokens for step in steps),
            searches=now[0] - before[0],
            remembered=now[1] - before[1],
            cpu_seconds=now[2] - before[2],
        )

    def _start(self) -> Engine:
        reasoner = self._reasoner
        if (restarts := self._restarts) > reasoner.engine.max_restarts:
            why = self._reason or "they were killed, or ran out of memory"
            raise StageError(
                f"engines had to be started again {restarts} times, more than engine.max_restarts allows; "
                f"the last because: {why}; see {self._log.folder}"
            )
        return start_engine(
            reasoner.model,
            reasoner.engine,
            reasoner.reasoning,
            endpoint=reasoner.endpoint,
            hub=reasoner.hub,
            revision=reasoner.revision,
        )

    async def _ask(self, missing: MissingAttempts) -> list[Chain]:
        """Make the missing chains of one sample, as soon as the engine takes another question."""
        assert self._engine is not None
        async with self._slots:
            started = time.monotonic()
            try:
                chains = await ask(
                    missing,
                    reasoner=self._reasoner,
                    engine=self._engine,
                    retriever=self._retriever,
                )
            except EngineDiedError as error:
                logger.error(
                    "the engine died: %s; this actor ends so that its work is retried", error
                )
                await self._tally.died.remote(squeeze(str(error)))
                os._exit(1)
        for chain in chains:
            if chain.error is not None:
                logger.warning("question %s failed: %s", chain.question_id, chain.error)
        self._failures = self._failures + 1 if chains[-1].error is not None else 0
        if self._failures >= MAX_CONSECUTIVE_FAILURES:
            raise StageError(
                f"{MAX_CONSECUTIVE_FAILURES} questions in a row could not be worked on, the last because: "
                f"{chains[-1].error}"
            )
        written = [step for chain in chains for step in chain.steps[max(0, missing.step - 1) :]]
        seconds = [step.search_seconds + step.generate_seconds for step in written]
        now = time.monotonic()
        steps, usage = step_seconds(seconds, now - started), self._usage_of(len(chains), written)
        failed = sum(chain.error is not None for chain in chains)
        record_sample(self._record, usage, failed, steps)
        self._answered.append((now, steps))
        self._unreported += usage
        if now - self._reported_at > REPORT_INTERVAL_S:
            self._report()
        return chains

    def _report(self) -> None:
        """Report the usage since the last report to the tally; times as ages, for clocks differ."""
        self._reported_at = now = time.monotonic()
        ages = [(now - answered, seconds) for answered, seconds in self._answered]
        self._tally.add.remote(self._unreported, ages)
        self._unreported, self._answered = EngineUsage(), []
