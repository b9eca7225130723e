"""Scores existing chains again by the current rules of reading and comparing answers; no model is asked."""

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.rows import chain_files, chain_from_row, read_batches
from steper_ray.chains.store import empty_folder, is_scored, merge_new, new_dir, scored_dir
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.schema import SCORES, Chain
from steper_ray.tasks import task_named
from steper_ray.tasks.protocol import Task


def score_again(chain: Chain, framework: Framework, task: Task) -> Chain:
    """The chain with its answer parsed again from its last step, and scored by the current rules."""
    if chain.error is not None or not chain.steps:
        return chain
    last = framework.render_target(chain.steps[-1].rationale, forced=chain.answer_forced)
    answer = framework.parse(last, forced=chain.answer_forced).answer
    answer = chain.answer if answer is None else answer
    scores: dict[str, Any] = task.score(answer, chain.asked)
    return replace(chain, answer=answer, **scores)


def score_chains(chains: Path, framework: str, task: str = "qa") -> None:
    """Score the chains of a store again if another task scored them, or by other rules.

    framework: name of the framework by which the chains were written
    task:      name of the task that scores them
    Raises InputError as `chain_files` does.
    """
    if new_dir(chains).is_dir():  # left by a command that was killed between the two renamings
        merge_new(chains)
    if is_scored(chains, task):
        return
    scored = empty_folder(scored_dir(chains))
    written_by, scored_by = framework_named(framework), task_named(task)
    jobs = [(file, scored, written_by, scored_by) for file in chain_files(chains)]
    deque(parallel_map(_score_file, jobs), maxlen=0)
    scored.rename(new_dir(chains))
    merge_new(chains)


def _score_file(job: tuple[Path, Path, Framework, Task]) -> None:
    """Write a file of chains to a folder with new answers and scores.

    job: file, folder, framework, task
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, folder, framework, task = job
    with pq.ParquetWriter(folder / file.name, CHAIN_SCHEMA) as writer:
        for batch in read_batches(file):
            rows = batch.to_pylist()
            chains = [score_again(chain_from_row(row), framework, task) for row in rows]
            for name in ("answer", *SCORES):
                index = CHAIN_SCHEMA.get_field_index(name)
                field = CHAIN_SCHEMA.field(index)
                values = pa.array([getattr(chain, name) for chain in chains], field.type)
                batch = batch.set_column(index, field, values)
            writer.write_batch(batch)
