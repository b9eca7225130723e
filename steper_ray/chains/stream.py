"""Runs questions through the reasoning loop on Ray Data: one vLLM engine an actor, no barriers.

Each actor holds an engine and a retriever and has several blocks of questions open; every question goes on
as soon as its own step is done, and the next begins as soon as one is answered, whatever their blocks, so
the engine stays full. Used by the teacher (build) and by evaluation.

An actor that is killed, or whose engine dies, is started again in its place or on another node, and its
batches with it; after `engine.max_restarts` of them the stage ends.
"""

import functools
import math
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.chains.actor import ChainActor
from steper_ray.chains.attempts import MissingAttempts, next_id
from steper_ray.chains.rows import attempts_row, attempts_schema
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage, Progress, usage_tally
from steper_ray.retrieval import corpus_identity
from steper_ray.run.dependencies import answers_identity
from steper_ray.run.identity import RECORD_FILE, Record, differences, read_record, write_record

if TYPE_CHECKING:
    from ray.data import DataContext


MAX_BLOCK_SIZE: Final = 64
"""Most questions that are written together, and lost together where a driver or an actor dies."""


BLOCKS_AT_WORK: Final = 4
"""Blocks that hold as many questions as an engine takes at a time; as many again wait, begun one by one as
places become free, so that no engine waits for the slowest question of a block."""


ROWS_AT_ONCE: Final = 1024
"""Questions that the driver has as rows at a time."""


def write_chains(
    wanted: Sequence[MissingAttempts],
    out: Path,
    *,
    reasoner: Reasoner,
    corpus: Path,
    log: Path,
    on_progress: Progress | None = None,
    by_other_rules: bool = False,
) -> EngineUsage:
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
    now = answers_identity(corpus_identity(corpus), reasoner.name, reasoner.identity)
    _prepare_partial(partial, now, ignore=("rules",) if by_other_rules else ())
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    done = _resume(partial, context)
    goes_by = functools.partial(next_id, reasoner=reasoner)
    left = sorted((one for one in wanted if goes_by(one) not in done), key=goes_by)
    ran = EngineUsage()
    if left:
        ran = _run(left, partial, context, reasoner, corpus, log, on_progress)
    shutil.rmtree(out, ignore_errors=True)
    (partial / "chains").rename(out)
    shutil.rmtree(partial)
    return ran


def block_size(reasoner: Reasoner) -> int:
    """Questions and samples that an actor takes, and writes, together."""
    return min(MAX_BLOCK_SIZE, max(1, reasoner.at_once // BLOCKS_AT_WORK))


def open_blocks(reasoner: Reasoner) -> int:
    """Blocks that an actor has at a time, begun or waiting."""
    return 2 * math.ceil(reasoner.at_once / block_size(reasoner))


def _run(
    wanted: Sequence[MissingAttempts],
    partial: Path,
    context: "DataContext",
    reasoner: Reasoner,
    corpus: Path,
    log: Path,
    on_progress: Progress | None,
) -> EngineUsage:
    """Ask what is wanted, into `partial / "chains"`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    source = partial / "questions.parquet"
    with pq.ParquetWriter(source, attempts_schema()) as file:
        for start in range(0, len(wanted), ROWS_AT_ONCE):
            rows = [attempts_row(one, reasoner) for one in wanted[start : start + ROWS_AT_ONCE]]
            file.write_table(pa.Table.from_pylist(rows, schema=attempts_schema()))
    engine, size, at_a_time = reasoner.engine, block_size(reasoner), open_blocks(reasoner)
    with usage_tally(len(wanted), on_progress) as tally, ray.data.DataContext.current(context):
        data = ray.data.read_parquet(str(source)).repartition(target_num_rows_per_block=size)
        chains = data.map_batches(
            ChainActor,
            fn_constructor_args=(reasoner, corpus, log, tally),
            batch_size=size,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(
                size=engine.replicas,
                max_concurrent_calls_per_actor=at_a_time,
                max_tasks_in_flight_per_actor=at_a_time,
            ),
            num_cpus=engine.cpus,
            num_gpus=0.0 if reasoner.endpoint else engine.gpus,
        )
        chains.write_parquet(str(partial / "chains"))
        ran: EngineUsage = ray.get(tally.whole.remote())
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
