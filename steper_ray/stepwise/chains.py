"""Runs questions through the reasoning loop on Ray Data: one vLLM engine an actor, no barriers.

Each actor holds an engine and a retriever and has several blocks of questions open; every question goes on
as soon as its own step is done, and the next begins as soon as one is answered, whatever their blocks, so
the engine stays full. Used by the teacher (build) and by evaluation.

An actor that is killed, or whose engine dies, is started again in its place or on another node, and its
batches with it; after `engine.restarts` of them the stage ends.
"""

import asyncio
import functools
import gc
import math
import os
import shutil
import sys
import time
from array import array
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import StageError
from steper_ray.reasoning.endpoint import EndpointEngine
from steper_ray.reasoning.engine import VLLMEngine
from steper_ray.retrieval import Retriever, search_in_one_thread
from steper_ray.run.identity import (
    RECORD_FILE,
    Record,
    answers_identity,
    differences,
    read_record,
    write_record,
)
from steper_ray.schema import CHAIN_SCHEMA, QUESTION_SCHEMA, Chain, Passage, Question, Step
from steper_ray.session import redirect_output
from steper_ray.stepwise.asking import Respondent, Wanted, ask, next_id
from steper_ray.stepwise.pace import pieces, work_while_waiting

if TYPE_CHECKING:
    import pyarrow as pa
    from ray.data import DataContext

Progress = Callable[[int, int], None]
"""Called with (questions done, questions in all)."""

LARGEST_BLOCK: Final = 64
"""Most questions that are written together, and lost together where a driver or an actor dies."""
MOST_FAILURES: Final = 50
"""So many failed questions in a row, on one actor, end the stage: the fault is not theirs."""
BLOCKS_AT_WORK: Final = 4
"""Blocks that hold as many questions as an engine takes at a time; as many again wait, begun one by one as
places become free, so that no engine waits for the slowest question of a block."""
ROWS_AT_ONCE: Final = 1024
"""Questions that the driver has as rows at a time."""
TELL_SECONDS: Final = 0.5
"""Between two reports of an actor on what it has done."""
ADDED_LATER: Final = {"teacher": "", "sample": 1, "attempt": 1, "rationalized": False}
"""What a chain has in these columns that was written before there were such."""


@dataclass(frozen=True, slots=True)
class Ran:
    """How the engines ran."""

    asked: int = 0
    """Questions and samples done, those twice that had to be done again."""
    chains: int = 0
    engine_seconds: float = 0.0
    """From when the first engine was ready until the last question was done."""
    cpu_seconds: float = 0.0
    """CPU time of the actors; their engines have processes of their own."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in a prefix cache."""
    generated_tokens: int = 0
    searches: int = 0
    remembered: int = 0
    """Searches that an actor had made before, and answered from memory."""
    starts: int = 0
    """Actors that were started, those in place of dead ones too."""
    start_seconds: float = 0.0
    """From the call until the first engine was ready."""
    waiting_work: float = 0.0
    """Questions' and samples' worth of steps written by warm engines while others waited to be begun."""
    waiting_seconds: float = 0.0
    """How long that was, summed over the engines; see `steper_ray.stepwise.pace`."""
    waiting_slices: int = 0
    waiting_deviations: float = 0.0
    """How the pace varied in it, see `Waiting`."""

    def __add__(self, other: "Ran") -> "Ran":
        return Ran(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def chain_from_row(row: dict[str, Any]) -> Chain:
    """A row of `CHAIN_SCHEMA` as a Chain."""
    values = dict(row)
    for column, usual in ADDED_LATER.items():
        if values.get(column) is None:
            values[column] = usual
    values["gold_answers"] = tuple(row["gold_answers"])
    values["supporting_ids"] = tuple(row.get("supporting_ids") or ())
    values["passages"] = tuple(Passage(**passage) for passage in row["passages"])
    values["steps"] = tuple(
        Step(**{**step, "passage_ids": tuple(step["passage_ids"])}) for step in row["steps"]
    )
    return Chain(**values)


def read_chains(folder: Path, ids: Sequence[str] | None = None) -> list[Chain]:
    """The chains of a folder, ordered by id.

    ids: only these; None reads all
    """
    import pyarrow.dataset as ds

    if ids is not None and not ids:
        return []
    files = [str(file) for file in sorted(folder.glob("*.parquet"))]
    chosen = None if ids is None else ds.field("id").isin(list(ids))
    rows = ds.dataset(files, schema=CHAIN_SCHEMA).to_table(filter=chosen).to_pylist()
    return sorted((chain_from_row(row) for row in rows), key=lambda chain: chain.id)


def write_chains(
    wanted: Sequence[Wanted],
    out: Path,
    *,
    respondent: Respondent,
    corpus: Path,
    log: Path,
    on_progress: Progress | None = None,
    by_other_rules: bool = False,
) -> Ran:
    """Ask a model what is wanted and write the chains to `out` as Parquet.

    Written blocks survive a crash: the same call again resumes where the last one stopped, and a call
    with another model, corpus or way of asking begins anew. `out` appears when all questions are done.

    log:            file for what the engines print
    by_other_rules: whether to resume also what was begun by other RULES
    Raises StageError where engines keep dying, or questions keep failing.
    """
    import ray

    corpus = corpus.resolve()  # one corpus, also if another takes its place meanwhile
    partial = out.with_name(out.name + ".partial")
    version = Retriever(corpus).corpus_version
    now = answers_identity(version, respondent.name, respondent.identity)
    _prepare_partial(partial, now, ignore=("rules",) if by_other_rules else ())
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    done = _resume(partial, context)
    goes_by = functools.partial(next_id, respondent=respondent)
    left = sorted((one for one in wanted if goes_by(one) not in done), key=goes_by)
    ran = Ran()
    if left:
        ran = _run(left, partial, context, respondent, corpus, log, on_progress)
    shutil.rmtree(out, ignore_errors=True)
    (partial / "chains").rename(out)
    shutil.rmtree(partial)
    return ran


def block_size(respondent: Respondent) -> int:
    """Questions and samples that an actor takes, and writes, together."""
    return min(LARGEST_BLOCK, max(1, respondent.at_once // BLOCKS_AT_WORK))


def open_blocks(respondent: Respondent) -> int:
    """Blocks that an actor has at a time, begun or waiting."""
    return 2 * math.ceil(respondent.at_once / block_size(respondent))


def _run(
    wanted: Sequence[Wanted],
    partial: Path,
    context: "DataContext",
    respondent: Respondent,
    corpus: Path,
    log: Path,
    on_progress: Progress | None,
) -> Ran:
    """Ask what is wanted, into `partial / "chains"`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    source = partial / "questions.parquet"
    with pq.ParquetWriter(source, _wanted_schema()) as file:
        for start in range(0, len(wanted), ROWS_AT_ONCE):
            rows = [_row(one, respondent) for one in wanted[start : start + ROWS_AT_ONCE]]
            file.write_table(pa.Table.from_pylist(rows, schema=_wanted_schema()))
    engine, size, at_a_time = respondent.engine, block_size(respondent), open_blocks(respondent)
    with _tallied(len(wanted), on_progress) as tally, ray.data.DataContext.current(context):
        data = ray.data.read_parquet(str(source)).repartition(target_num_rows_per_block=size)
        chains = data.map_batches(
            ChainMaker,
            fn_constructor_args=(respondent, corpus, log, tally),
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=engine.actors,
                max_concurrent_calls_per_actor=at_a_time,
                max_tasks_in_flight_per_actor=at_a_time,
            ),
            num_cpus=engine.cpus,
            num_gpus=0.0 if respondent.endpoint else engine.gpus,
        )
        chains.write_parquet(str(partial / "chains"))
        ran: Ran = ray.get(tally.whole.remote())
    return ran


def _prepare_partial(partial: Path, now: Record, *, ignore: Collection[str]) -> None:
    """Leave in the folder only what an interrupted call with the same record has written."""
    before = read_record(partial / RECORD_FILE)
    if before is None or differences(before, now, ignore=ignore):
        shutil.rmtree(partial, ignore_errors=True)
        write_record(partial / RECORD_FILE, now)


def _resume(partial: Path, context: "DataContext") -> set[str]:
    """Have Ray Data's checkpoints written; returns the ids that those of an interrupted call say are done.

    Ray Data itself would filter what is done in an actor that holds a core as long as the run goes on, and
    a machine of two cores would wait for ever. So it is told that nothing is, and is not given what is.
    """
    import ray
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.checkpoint.checkpoint_filter import CheckpointManager, IdColumnCheckpointManager

    class NothingDone(CheckpointManager):
        def __init__(self, checkpoint_config: CheckpointConfig, data_context: Any) -> None: ...

        def load_checkpoint(self, *_: Any) -> tuple[None, int]:
            return None, 0

    place, chains = partial / "checkpoint", partial / "chains"
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=str(place),
        delete_checkpoint_on_success=True,
        checkpoint_manager_cls=NothingDone,
    )
    if not place.is_dir():
        return set()
    manager = IdColumnCheckpointManager(context.checkpoint_config, context)
    ids: Any = manager.load_checkpoint(str(chains))[0]
    return set() if ids is None else set(ray.get(ids).tolist())


def _row(wanted: Wanted, respondent: Respondent) -> dict[str, Any]:
    """What is wanted, as a row that goes by the id of the first chain that it will bring."""
    return {
        **asdict(wanted.question),
        "id": next_id(wanted, respondent),
        "question_id": wanted.question.id,
        "sample": wanted.sample,
        "earlier": [asdict(chain) for chain in wanted.earlier],
    }


def _wanted_schema() -> "pa.Schema":
    import pyarrow as pa

    earlier = pa.list_(pa.struct(list(CHAIN_SCHEMA)))
    added = [("question_id", pa.string()), ("sample", pa.int32()), ("earlier", earlier)]
    return pa.schema([*QUESTION_SCHEMA, *added])


class ChainMaker:
    """The Ray Data actor: an engine, a retriever, and as many chains at once as they can take."""

    def __init__(self, respondent: Respondent, corpus: Path, log: Path, tally: Any) -> None:
        import ray

        redirect_output(log)
        # The searches of many questions fill a core by themselves; more threads only disturb the engine.
        search_in_one_thread()
        self._respondent, self._log, self._tally = respondent, log, tally
        self._retriever = Retriever(corpus)
        self._engine: VLLMEngine | EndpointEngine | None = None
        self._starting = asyncio.Lock()
        self._places = asyncio.Semaphore(respondent.at_once)
        self._failures = 0
        """Questions that failed since the last one that did not."""
        here = ray.get_runtime_context().current_actor
        self._starts, self._reason = ray.get(tally.start.remote(here))
        self._counted = (0, 0, 0.0)
        """Searches, those from memory, and CPU seconds that are counted."""
        self._did, self._told_at = Ran(), 0.0
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
        work = [self._ask(_wanted_from_row(row)) for row in batch.to_pylist()]
        rows = [asdict(chain) for chains in await asyncio.gather(*work) for chain in chains]
        self._tell()
        yield pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)

    def _taken(self, chains: Sequence[Chain]) -> Ran:
        """What these chains took, and the searches since the last ones."""
        steps = [step for chain in chains for step in chain.steps]
        before, now = self._counted, (*self._retriever.searches, time.process_time())
        self._counted = now
        return Ran(
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
        respondent = self._respondent
        restarts = self._starts - respondent.engine.actors
        if restarts > respondent.engine.restarts:
            why = self._reason or "they were killed, or ran out of memory"
            raise StageError(
                f"engines had to be started again {restarts} times, more than engine.restarts allows; "
                f"the last because: {why}; see {self._log}"
            )
        if respondent.endpoint is not None:
            return EndpointEngine(respondent.model, respondent.endpoint, respondent.hub)
        return VLLMEngine(
            respondent.model,
            respondent.engine,
            respondent.reasoning,
            respondent.hub,
            respondent.revision,
        )

    async def _ask(self, wanted: Wanted) -> list[Chain]:
        """The chains of one sample, as soon as there is a place for it."""
        from vllm.v1.engine.exceptions import EngineDeadError

        assert self._engine is not None
        async with self._places:
            begun = time.monotonic()
            try:
                chains = await ask(
                    wanted,
                    respondent=self._respondent,
                    engine=self._engine,
                    searcher=self._retriever,
                    corpus_version=self._retriever.corpus_version,
                )
            except EngineDeadError as error:
                print(f"the engine died: {error}; this actor ends so that its work is retried")
                sys.stdout.flush()
                await self._tally.died.remote(" ".join(str(error).split()))
                os._exit(1)
        self._failures = self._failures + 1 if chains[-1].error is not None else 0
        if self._failures >= MOST_FAILURES:
            raise StageError(
                f"{MOST_FAILURES} questions in a row could not be worked on, the last because: "
                f"{chains[-1].error}"
            )
        steps = [s.search_seconds + s.generate_seconds for c in chains for s in c.steps]
        done = time.monotonic()
        self._untold.append((done, pieces(steps, done - begun)))
        self._did += self._taken(chains)
        if done - self._told_at > TELL_SECONDS:
            self._tell()
        return chains

    def _tell(self) -> None:
        """Tell the tally what was done since it was told last; times as ages, for clocks differ."""
        self._told_at = now = time.monotonic()
        ages = [(now - done, seconds) for done, seconds in self._untold]
        self._tally.add.remote(self._did, ages)
        self._did, self._untold = Ran(), []


class _Tally:
    """An actor beside the driver that the others report to."""

    def __init__(self) -> None:
        self._ran = Ran()
        self._actors: list[Any] = []
        self._called_at = time.monotonic()
        self._ready_at: list[float] = []
        self._reason = ""
        self._begun, self._done = array("d"), array("d")
        """When each piece of work was begun, and done."""
        self._first, self._last, self._newest = math.inf, 0.0, 0.0
        """When the first question was done, the last one begun, and the newest one done."""

    def start(self, actor: Any) -> tuple[int, str]:
        """An actor has started: how many have by now, and why the last one died as far as it could say."""
        self._actors.append(actor)
        self._ran += Ran(starts=1)
        return self._ran.starts, self._reason

    def actors(self) -> list[Any]:
        """Those that have started."""
        return self._actors

    def ready(self) -> None:
        self._ready_at.append(time.monotonic())

    def died(self, reason: str) -> None:
        self._reason = reason

    def add(self, did: Ran, ages: Sequence[tuple[float, Sequence[float]]]) -> None:
        """Questions are done; ages: for how long, and how long each piece of them took, in seconds."""
        now = time.monotonic()
        self._ran += did
        for age, seconds in ages:
            at = now - age - sum(seconds)
            self._first = min(self._first, now - age)
            self._last = max(self._last, at)
            self._newest = max(self._newest, now - age)
            for piece in seconds:
                self._begun.append(at)
                at += piece
                self._done.append(at)
        if self._ready_at:
            self._ran = replace(self._ran, engine_seconds=self._newest - self._ready_at[0])

    def report(self) -> Ran:
        """What is known at any time."""
        return self._ran

    def whole(self) -> Ran:
        """With what is known when all is done."""
        if not self._ready_at:
            return self._ran
        waiting = work_while_waiting(
            self._begun, self._done, self._ran.asked, self._first, self._last, self._ready_at
        )
        return replace(
            self._ran,
            start_seconds=self._ready_at[0] - self._called_at,
            waiting_work=waiting.work,
            waiting_seconds=waiting.seconds,
            waiting_slices=waiting.slices,
            waiting_deviations=waiting.deviations,
        )


@contextmanager
def _tallied(total: int, on_progress: Progress | None) -> Iterator[Any]:
    """A tally on this node, which outlives every node that is lost; asked twice a second."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor: Any = ray.remote(_Tally)
    tally = actor.options(num_cpus=0, scheduling_strategy=here).remote()
    stop = Event()

    def tell() -> None:
        if on_progress is not None:
            on_progress(min(total, ray.get(tally.report.remote()).asked), total)

    def listen() -> None:
        while not stop.wait(0.5):
            tell()

    thread = Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield tally
    finally:
        stop.set()
        thread.join()
        tell()
        # Ray Data leaves an actor of a run that failed as it is, with the cores that it holds.
        for actor in ray.get(tally.actors.remote()):
            ray.kill(actor)
        ray.kill(tally)


def _wanted_from_row(row: dict[str, Any]) -> Wanted:
    question = Question(
        id=row["question_id"],
        question=row["question"],
        answer=row["answer"],
        answer_aliases=tuple(row["answer_aliases"] or ()),
        supporting_ids=tuple(row["supporting_ids"] or ()),
        hops=row["hops"],
    )
    return Wanted(question, row["sample"], tuple(map(chain_from_row, row["earlier"] or ())))
