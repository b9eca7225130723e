"""Runs questions through the reasoning loop on Ray Data: one vLLM engine an actor, no barriers.

Each actor holds an engine and a retriever and works on several batches of questions at a time; within
it every question goes on as soon as its own step is done, so the engine stays full. Used by the
teacher (build) and by evaluation.
"""

import asyncio
import json
import os
import shutil
import sys
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError, RowError, StageError
from steper_ray.evaluation.metrics import accuracy, exact_match, f1
from steper_ray.models import files_digest
from steper_ray.reasoning.endpoint import EndpointConfig, EndpointEngine
from steper_ray.reasoning.engine import EngineConfig, VLLMEngine
from steper_ray.reasoning.loop import Reasoned, ReasoningConfig, reason
from steper_ray.retrieval import Retriever
from steper_ray.schema import CHAIN_SCHEMA, QUESTION_SCHEMA, Chain, Passage, Question, Step
from steper_ray.session import redirect_output

if TYPE_CHECKING:
    import pyarrow as pa

Progress = Callable[[int, int], None]
"""Called with (questions done, questions in all)."""

LARGEST_BLOCK: Final = 64
"""Most questions that are written together, and lost together where a driver or an actor dies."""
MOST_FAILURES: Final = 50
"""So many failed questions in a row, on one actor, end the stage: the fault is not theirs."""
BATCHES_AT_ONCE: Final = 4
"""Batches that Ray Data hands to one actor at a time (RAY_DATA_DEFAULT_ASYNC_BATCH_UDF_MAX_CONCURRENCY)."""


def make_chain(question: Question, reasoned: Reasoned, model: str, corpus_version: str) -> Chain:
    """A chain with its verdict against the gold answers."""
    gold = question.gold_answers
    return Chain(
        id=question.id,
        question_id=question.id,
        question=question.question,
        gold_answers=gold,
        hops=question.hops,
        passages=reasoned.passages,
        steps=reasoned.steps,
        answer=reasoned.answer,
        stop_reason=reasoned.stop_reason,
        em=exact_match(reasoned.answer, gold),
        f1=f1(reasoned.answer, gold),
        acc=accuracy(reasoned.answer, gold),
        model=model,
        corpus_version=corpus_version,
        supporting_ids=question.supporting_ids,
    )


def failed_chain(question: Question, error: str, model: str, corpus_version: str) -> Chain:
    """The row of a question that could not be worked on: no steps, no answer, the reason."""
    empty = Reasoned((), (), (), "", "answered")
    chain = make_chain(question, empty, model, corpus_version)
    return replace(chain, error=error)


def chain_from_row(row: dict[str, Any]) -> Chain:
    """A row of `CHAIN_SCHEMA` as a Chain."""
    values = dict(row)
    values["gold_answers"] = tuple(row["gold_answers"])
    values["supporting_ids"] = tuple(row.get("supporting_ids") or ())
    values["passages"] = tuple(Passage(**passage) for passage in row["passages"])
    values["steps"] = tuple(
        Step(**{**step, "passage_ids": tuple(step["passage_ids"])}) for step in row["steps"]
    )
    return Chain(**values)


def read_chains(folder: Path) -> list[Chain]:
    """All chains of a folder, ordered by id."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder, schema=CHAIN_SCHEMA).to_pylist()
    return sorted((chain_from_row(row) for row in rows), key=lambda chain: chain.id)


def write_chains(
    questions: list[Question],
    out: Path,
    *,
    model: str,
    corpus: Path,
    reasoning: ReasoningConfig,
    engine: EngineConfig,
    log: Path,
    endpoint: EndpointConfig | None = None,
    on_progress: Progress | None = None,
) -> None:
    """Answer every question with a model and write the chains to `out` as Parquet.

    Written blocks survive a crash: the same call again takes up where the last one stopped, and a call
    with another model, corpus or way of asking begins anew. `out` appears when all questions are done.

    endpoint: where the model is asked, if not in engines of our own
    log: file for what the engines print
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray
    from ray.data.checkpoint import CheckpointConfig

    partial = out.with_name(out.name + ".partial")
    source, made_with = partial / "questions.parquet", partial / "made_with.json"
    asked_how = json.dumps(
        [files_digest(model), Retriever(corpus).corpus_version, reasoning.model_dump(mode="json")]
    )
    if not made_with.is_file() or made_with.read_text(encoding="utf-8") != asked_how:
        shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True, exist_ok=True)
    made_with.write_text(asked_how, encoding="utf-8")
    rows = [{**asdict(q), "question_id": q.id} for q in sorted(questions, key=lambda q: q.id)]
    schema = QUESTION_SCHEMA.append(pa.field("question_id", pa.string()))
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), source)

    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.checkpoint_config = CheckpointConfig(
        id_column="question_id",
        checkpoint_path=str(partial / "checkpoint"),
        delete_checkpoint_on_success=True,
    )
    at_once = endpoint.concurrency if endpoint else engine.max_num_seqs
    in_flight = min(LARGEST_BLOCK, max(1, at_once // BATCHES_AT_ONCE))
    with _progress(len(questions), on_progress) as counter, ray.data.DataContext.current(context):
        data = ray.data.read_parquet(str(source)).repartition(target_num_rows_per_block=in_flight)
        chains = data.map_batches(
            ChainMaker,
            fn_constructor_args=(model, corpus, reasoning, endpoint or engine, log, counter),
            batch_size=in_flight,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=engine.actors),
            num_cpus=engine.cpus,
            num_gpus=0.0 if endpoint else engine.gpus,
        )
        chains.write_parquet(str(partial / "chains"))
    shutil.rmtree(out, ignore_errors=True)
    (partial / "chains").rename(out)
    shutil.rmtree(partial)


class ChainMaker:
    """The Ray Data actor: an engine, a retriever, and as many chains at once as they can take."""

    def __init__(
        self,
        model: str,
        corpus: Path,
        reasoning: ReasoningConfig,
        engine: EngineConfig | EndpointConfig,
        log: Path,
        counter: Any,
    ) -> None:
        redirect_output(log)
        self._model, self._reasoning, self._engine_config = model, reasoning, engine
        self._counter = counter
        self._retriever = Retriever(corpus)
        self._engine: VLLMEngine | EndpointEngine | None = None
        self._starting = asyncio.Lock()
        self._failures = 0
        """Questions that failed since the last one that did not."""

    async def __call__(self, batch: "pa.Table") -> AsyncIterator["pa.Table"]:
        import pyarrow as pa

        async with self._starting:
            if self._engine is None:
                self._engine = self._start()
        questions = [_question_from_row(row) for row in batch.to_pylist()]
        for done in asyncio.as_completed([self._answer(q) for q in questions]):
            chain = await done
            if self._failures >= MOST_FAILURES:
                raise StageError(
                    f"build: {MOST_FAILURES} questions in a row could not be worked on, the last "
                    f"because: {chain.error}"
                )
            if self._counter is not None:
                self._counter.add.remote(1)
            yield pa.Table.from_pylist([asdict(chain)], schema=CHAIN_SCHEMA)

    def _start(self) -> "VLLMEngine | EndpointEngine":
        if isinstance(self._engine_config, EndpointConfig):
            return EndpointEngine(self._model, self._engine_config)
        return VLLMEngine(self._model, self._engine_config, self._reasoning)

    async def _answer(self, question: Question) -> Chain:
        from vllm.v1.engine.exceptions import EngineDeadError

        assert self._engine is not None
        version = self._retriever.corpus_version
        try:
            reasoned = await reason(
                question.question,
                engine=self._engine,
                searcher=self._retriever,
                config=self._reasoning,
            )
        except EngineDeadError as error:
            print(f"the engine died: {error}; this actor ends so that its work is retried")
            sys.stdout.flush()
            os._exit(1)
        except InputError:  # no question will do better
            raise
        except (RowError, ValueError) as error:  # vLLM refuses a prompt with a ValueError
            self._failures += 1
            return failed_chain(question, str(error), self._model, version)
        self._failures = 0
        return make_chain(question, reasoned, self._model, version)


@contextmanager
def _progress(total: int, on_progress: Progress | None) -> Iterator[Any]:
    """An actor that counts finished questions, asked twice a second; None if nobody listens."""
    if on_progress is None:
        yield None
        return
    import ray

    @ray.remote(num_cpus=0)
    class Counter:
        def __init__(self) -> None:
            self.count = 0

        def add(self, count: int) -> int:
            self.count += count
            return self.count

    counter = Counter.options(name=f"progress-{uuid.uuid4().hex}").remote()  # type: ignore[attr-defined]
    stop = Event()

    def listen() -> None:
        while not stop.wait(0.5):
            on_progress(min(total, ray.get(counter.add.remote(0))), total)

    thread = Thread(target=listen, daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        stop.set()
        thread.join()
        on_progress(min(total, ray.get(counter.add.remote(0))), total)
        ray.kill(counter)


def _question_from_row(row: dict[str, Any]) -> Question:
    return Question(
        id=row["id"],
        question=row["question"],
        answer=row["answer"],
        answer_aliases=tuple(row["answer_aliases"] or ()),
        supporting_ids=tuple(row["supporting_ids"] or ()),
        hops=row["hops"],
    )
