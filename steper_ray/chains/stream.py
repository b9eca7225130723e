"""Runs questions through the reasoning loop on Ray Data: one vLLM engine an actor, no barriers.

Each actor holds an engine and a retriever and works on several blocks of questions. A question takes its
next step as soon as its last one is finished, and a new question begins as soon as one is answered,
whatever their blocks, so the engine stays full. Used by the teachers (build) and by evaluation.

An actor that is killed, or whose engine dies, is restarted, here or on another node, and its batches are
retried; after `engine.max_restarts` restarts the stage ends.
"""

import functools
import logging
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
from steper_ray.ray_runtime.logs import LaunchLog, launch
from steper_ray.ray_runtime.placement import asking_bundles, engine_actors
from steper_ray.ray_runtime.room import check_room
from steper_ray.retrieval import corpus_identity
from steper_ray.run.dependencies import answers_identity
from steper_ray.run.identity import RECORD_FILE, Record, differences, read_record, write_record

if TYPE_CHECKING:
    from ray.data import DataContext


logger = logging.getLogger(__name__)


MAX_BLOCK_SIZE: Final = 64
"""Upper bound for the questions of a block, which is written, or lost with its actor, as a whole."""


BLOCKS_AT_WORK: Final = 4
"""Blocks that together hold as many questions as an engine takes at a time. As many blocks again are queued
in the actor, so that no engine idles until the slowest question of a block is answered."""


ROWS_AT_ONCE: Final = 1024
"""Questions that the driver converts to rows at a time."""


def write_chains(
    missing: Sequence[MissingAttempts],
    out: Path,
    *,
    reasoner: Reasoner,
    corpus: Path,
    log: Path,
    on_progress: Progress | None = None,
    by_other_rules: bool = False,
    asked: str | None = None,
) -> EngineUsage:
    """Have a model make missing chains and write them to `out` as Parquet.

    Written blocks survive a crash: the same call resumes where the last one stopped; a call with another
    model, corpus or prompt starts over. `out` appears when all questions are answered.

    log:            folder for the log of a new launch; within a launch its log is written on
    by_other_rules: whether to resume also chains that were made by other RULES, or scored by another task
    asked:          digest of all that is asked; what an interrupted call for another wrote does not count
    Raises StageError if engines keep dying, or questions keep failing.
    """
    import ray

    corpus = corpus.resolve()  # the link may be set to a newer corpus while this one is searched
    partial = out.with_name(out.name + ".partial")
    now = answers_identity(corpus_identity(corpus), reasoner.name, reasoner.identity, reasoner.task)
    if asked is not None:
        now["asked"] = asked
    _prepare_partial(partial, now, ignore=("rules", "task") if by_other_rules else ())
    context = ray.data.DataContext.get_current().copy()
    context.enable_progress_bars = False
    written = _resume(partial, context)
    first_id = functools.partial(next_id, reasoner=reasoner)
    remaining = sorted(
        (sample for sample in missing if first_id(sample) not in written), key=first_id
    )
    usage = EngineUsage()
    if remaining:
        with launch(log) as launch_log:
            logger.info("%s: %d questions, %d done before", out, len(missing), len(written))
            usage = _run(remaining, partial, context, reasoner, corpus, launch_log, on_progress)
    shutil.rmtree(out, ignore_errors=True)
    (partial / "chains").rename(out)
    shutil.rmtree(partial)
    return usage


def block_size(reasoner: Reasoner) -> int:
    """Samples of questions in a block, which an actor takes and writes together."""
    return min(MAX_BLOCK_SIZE, max(1, reasoner.at_once // BLOCKS_AT_WORK))


def open_blocks(reasoner: Reasoner) -> int:
    """Blocks that an actor holds at a time, running or queued."""
    return 2 * math.ceil(reasoner.at_once / block_size(reasoner))


def _run(
    missing: Sequence[MissingAttempts],
    partial: Path,
    context: "DataContext",
    reasoner: Reasoner,
    corpus: Path,
    log: LaunchLog,
    on_progress: Progress | None,
) -> EngineUsage:
    """Run the samples through Ray Data into `partial / "chains"`."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    import ray

    source = partial / "questions.parquet"
    with pq.ParquetWriter(source, attempts_schema()) as file:
        for start in range(0, len(missing), ROWS_AT_ONCE):
            part = missing[start : start + ROWS_AT_ONCE]
            rows = [attempts_row(sample, reasoner) for sample in part]
            file.write_table(pa.Table.from_pylist(rows, schema=attempts_schema()))
    engine, size = reasoner.engine, block_size(reasoner)
    endpoint = reasoner.endpoint is not None
    check_room(
        log.stage,
        asking_bundles(engine, endpoint=endpoint),
        "lower the engine's replicas, cpus or gpus (each use may have its own: build.engine, eval.engine)",
    )
    with (
        usage_tally(len(missing), on_progress) as tally,
        ray.data.DataContext.current(context),
        engine_actors(engine, endpoint=endpoint) as options,
    ):
        data = ray.data.read_parquet(source.name, filesystem=_within(partial))
        data = data.repartition(target_num_rows_per_block=size)
        chains = data.map_batches(
            ChainActor,
            fn_constructor_args=(reasoner, corpus, log, tally),
            batch_size=size,
            batch_format="pyarrow",
            compute=actor_pool(reasoner, len(missing), context),
            **options,
        )
        chains.write_parquet("chains", filesystem=_within(partial))
        usage: EngineUsage = ray.get(tally.total.remote())
    return usage


def actor_pool(reasoner: Reasoner, samples: int, context: "DataContext") -> Any:
    """The pool of the actors: as many as are set, or between bounds as many as have work and room."""
    from ray.data import ActorPoolStrategy

    blocks, fewest = open_blocks(reasoner), reasoner.engine.min_replicas
    most = reasoner.engine.max_replicas
    if fewest != most:
        with_work = max(fewest, math.ceil(samples / (block_size(reasoner) * blocks)))
        most = min(most or with_work, with_work)
        # an actor whose queue is full is busy; by Ray Data's default it would have to hold more than fits
        context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    return ActorPoolStrategy(
        min_size=fewest,
        max_size=most,
        max_concurrent_calls_per_actor=blocks,
        max_tasks_in_flight_per_actor=blocks,
    )


def _within(folder: Path) -> Any:
    """A folder as a file system of its own: Ray Data would read a path with `?` in it as an address."""
    from pyarrow.fs import LocalFileSystem, SubTreeFileSystem

    return SubTreeFileSystem(str(folder.absolute()), LocalFileSystem())


def _prepare_partial(partial: Path, now: Record, *, ignore: Collection[str]) -> None:
    """Empty the folder unless an interrupted call with the same record has written it."""
    before = read_record(partial / RECORD_FILE)
    if before is None or differences(before, now, ignore=ignore):
        shutil.rmtree(partial, ignore_errors=True)
        write_record(partial / RECORD_FILE, now)


def _resume(partial: Path, context: "DataContext") -> set[str]:
    """Turn on Ray Data's checkpoints; returns the ids that an interrupted call has written.

    Ray Data itself would filter written ids in an actor that holds a core until the run ends, and a
    machine with two cores would hang. So Ray Data is told that nothing is written, and gets only the
    remaining rows.
    """
    import ray
    from ray.data.checkpoint import CheckpointConfig
    from ray.data.checkpoint.checkpoint_filter import CheckpointManager, IdColumnCheckpointManager

    class NothingWritten(CheckpointManager):
        def __init__(self, checkpoint_config: CheckpointConfig, data_context: Any) -> None: ...

        def load_checkpoint(self, *_: Any) -> tuple[None, int]:
            return None, 0

    checkpoint, chains = partial / "checkpoint", partial / "chains"
    context.checkpoint_config = CheckpointConfig(
        id_column="id",
        checkpoint_path=checkpoint.name,
        override_filesystem=_within(partial),
        delete_checkpoint_on_success=True,
        checkpoint_manager_cls=NothingWritten,
    )
    if not checkpoint.is_dir():
        return set()
    manager = IdColumnCheckpointManager(context.checkpoint_config, context)
    ids: Any = manager.load_checkpoint(chains.name)[0]
    return set() if ids is None else set(ray.get(ids).tolist())
