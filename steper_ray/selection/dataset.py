"""The data set on disk: verdicts into `chains/`, the kept chains' examples into `stepwise/`, `stats.json`.

    chains/                     every chain, with its verdict
    stepwise/README.md          the card, with pictures beside it
    stepwise/data/*.parquet     the examples of the kept chains
    stats.json                  counts, the teacher's run, settings

All of it follows from the chains and the settings, so it is made anew whenever one of them changes, without
a teacher. However the chains are spread over files, the examples come out in the order of their chains'
ids, in the same shards, byte for byte.

What takes long is done file by file, on the cluster's cores where Ray is connected, else here. No more than
a file's batch and the ids of all chains are held at a time.
"""

import json
import shutil
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.chains.rows import chain_files
from steper_ray.chains.store import is_scored, merge_new, new_dir, record_scored
from steper_ray.files import write_whole
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reports.dataset_card import write_card
from steper_ray.reports.histograms import write_histograms
from steper_ray.run.secrets import public_settings
from steper_ray.selection.shards import plan_shards, write_shard
from steper_ray.selection.statistics import Counts, describe, merge
from steper_ray.selection.verdict_files import final_verdicts, judge_file, rewrite_file, score_file
from steper_ray.tasks import task_named

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


DATA: Final = "data"
"""The folder of the Parquet files in a data set."""


SETTINGS: Final = ("corpus", "questions", "reasoning", "engine", "build", "select")
"""Sections of the run file that `stats.json` and the card show."""


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """What selection came to."""

    questions: int
    counts: Counts
    changes: Counter[tuple[str | None, str | None]]
    """(verdict before, verdict now; None is kept) → chains whose verdict is another one now."""
    pushed: str | None = None
    """Address of the repository that the data set was uploaded to."""


def select_chains(config: "RunConfig", build: Mapping[str, Any] | None = None) -> SelectionSummary:
    """Judge every chain and write verdicts, examples, statistics and card; each appears when it is whole.

    build: what is known of the teachers' run; None keeps what `stats.json` says of an earlier one
    Raises InputError if there are no chains, or some that cannot be read or have the same id.
    """
    chains_dir, dataset_dir = config.folder.chains, config.folder.dataset
    score_chains(config)
    record_scored(chains_dir)
    files, reasoning = chain_files(chains_dir), complete_reasoning(config.reasoning)
    judge = partial(
        judge_file,
        select=config.select,
        reasoning=reasoning,
        teachers=config.build.teachers,
        task=config.questions.task,
    )
    judged = dict(zip(files, parallel_map(judge, files), strict=True))
    verdicts = final_verdicts(judged, config.select)
    rows = [row for part in judged.values() for row in part]
    changes = Counter((r.before, verdicts[r.id]) for r in rows if r.before != verdicts[r.id])

    chains = _empty(chains_dir.with_name(f"{chains_dir.name}.selected.partial"))
    dataset = _empty(dataset_dir.with_name(f"{dataset_dir.name}.partial"))
    jobs = [(file, chains, {r.id: verdicts[r.id] for r in part}) for file, part in judged.items()]
    counts = merge(parallel_map(rewrite_file, jobs))
    write = partial(write_shard, folder=_empty(dataset / DATA), reasoning=reasoning)
    deque(parallel_map(write, plan_shards(judged, verdicts)), maxlen=0)
    questions = {r.question_id: None for r in rows}
    kept = {r.question_id: None for r in rows if verdicts[r.id] is None}
    stats = {
        "questions": {"all": len(questions), "kept": len(kept)},
        **describe(counts),
        "build": _earlier_build(config) if build is None else dict(build),
        "settings": public_settings(
            {name: getattr(config, name).model_dump(mode="json") for name in SETTINGS}
        ),
    }
    write_histograms(stats["tokens"], dataset)
    write_card(dataset, stats, STEP_EXAMPLE_SCHEMA.names)

    if changes:
        chains.rename(new_dir(chains_dir))
        merge_new(chains_dir)
    else:
        shutil.rmtree(chains)
    _replace(dataset_dir, dataset)
    write_whole(config.folder.stats, json.dumps(stats, indent=2, ensure_ascii=False) + "\n")
    return SelectionSummary(len(questions), counts, changes)


def score_chains(config: "RunConfig") -> None:
    """Score existing chains again where a rule by which they are read and scored was raised.

    No model is asked. Raises InputError as `chain_files` does.
    """
    chains_dir = config.folder.chains
    if new_dir(chains_dir).is_dir():  # of a command that was killed at the very end
        merge_new(chains_dir)
    if is_scored(chains_dir):
        return
    scored = _empty(chains_dir.with_name(f"{chains_dir.name}.scored.partial"))
    framework = framework_named(config.reasoning.framework)
    task = task_named(config.questions.task)
    jobs = [(file, scored, framework, task) for file in chain_files(chains_dir)]
    deque(parallel_map(score_file, jobs), maxlen=0)
    scored.rename(new_dir(chains_dir))
    merge_new(chains_dir)


def _earlier_build(config: "RunConfig") -> Any:
    """What `stats.json` says of the teachers' run; None where nobody knows."""
    file = config.folder.stats
    return json.loads(file.read_text(encoding="utf-8"))["build"] if file.is_file() else None


def _empty(folder: Path) -> Path:
    """The folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _replace(folder: Path, new: Path) -> None:
    """Put a finished folder in the place of another; what is there is always whole."""
    old = folder.with_name(f"{folder.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
