"""`steper select`: verdicts on existing chains, and the step-wise examples of the kept ones.

    chains/                     every chain, with its verdict
    stepwise/data/*.parquet     the examples of the kept chains
    stats.json                  counts, the engines' usage, settings

All of it follows from the chains and the settings, so it is written anew whenever one of them changes,
without a teacher. Files of chains are judged and rewritten one by one, in parallel where Ray is connected;
one batch of a file and the verdicts of all chains are in memory at a time.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from steper_ray.chains.rows import chain_files
from steper_ray.chains.scoring import score_chains
from steper_ray.chains.store import empty_folder, merge_new, new_dir, record_scored
from steper_ray.files import write_whole
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.lock import locked
from steper_ray.selection.abilities import AbilityScheme, ability_scheme
from steper_ray.selection.choice import Judgement
from steper_ray.selection.dataset import Decorate, replace_folder, write_dataset
from steper_ray.selection.settings import SelectConfig
from steper_ray.selection.statistics import Counts, describe, merge
from steper_ray.selection.verdict_files import final_verdicts, judge_file, rewrite_file


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """Result of a selection, in numbers."""

    questions: int
    counts: Counts
    examples: dict[str, int]
    """Ability → examples, every ability of the scheme."""
    changes: Counter[tuple[str | None, str | None]]
    """(old verdict, new verdict; None is kept) → chains whose verdict changed."""
    faults: Counter[str]
    """Name or number → chains that are left out as ungrounded for it."""
    pushed: str | None = None
    """Address of the repository that the data set was uploaded to."""


def select_examples(
    settings: SelectConfig,
    *,
    chains: Path,
    out: Path,
    stats: Path,
    reasoning: ReasoningConfig,
    teachers: Sequence[str] = ("",),
    task: str = "qa",
    usage: Mapping[str, Any] | None = None,
    recorded: Mapping[str, Any] | None = None,
    decorate: Decorate | None = None,
) -> SelectionSummary:
    """Judge every chain of a store and write verdicts, examples and statistics; each appears whole.

    Needs no teacher and no Ray, but uses the cluster's cores where Ray is connected.

    out:       folder of the data set
    stats:     file of the statistics
    reasoning: how the student will be asked
    teachers:  names of the teachers in the order of asking
    task:      name of the task that scores the chains
    usage:     the engines' usage in the build of the chains; None keeps that in `stats`
    recorded:  settings to record in `stats`
    decorate:  writes files beside the examples (card, pictures) from the statistics, before `out` appears
    Raises InputError if there are no chains, they cannot be read, two have one id, or another command is
    writing to the store.
    """
    scheme = ability_scheme(settings.abilities)
    reasoning = complete_reasoning(reasoning)
    with locked(chains):
        score_chains(chains, reasoning.framework, task)
        record_scored(chains, task)
        judged = _judge_files(chain_files(chains), settings, reasoning, teachers)
        verdicts = final_verdicts(judged, settings)
        rows = [row for part in judged.values() for row in part]
        changes = Counter((r.before, verdicts[r.id]) for r in rows if r.before != verdicts[r.id])

        rewritten, counts = _rewrite_chains(chains, judged, verdicts, scheme)
        described = {
            "questions": _count_questions(rows, verdicts),
            **describe(counts, scheme),
            "build": _recorded_usage(stats) if usage is None else dict(usage),
            "settings": dict(recorded or {}),
        }
        dataset = write_dataset(out, judged, verdicts, scheme=scheme, reasoning=reasoning)
        if decorate is not None:
            decorate(dataset, described)
        if changes:
            rewritten.rename(new_dir(chains))
            merge_new(chains)
        else:
            shutil.rmtree(rewritten)
        replace_folder(out, dataset)
        write_whole(stats, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
    questions = described["questions"]["all"]
    faults = Counter(name for row in rows for name in row.faults)
    return SelectionSummary(questions, counts, counts.by_ability(scheme.names), changes, faults)


def _judge_files(
    files: Sequence[Path],
    settings: SelectConfig,
    reasoning: ReasoningConfig,
    teachers: Sequence[str],
) -> dict[Path, list[Judgement]]:
    """Judgements of the chains by themselves, by file."""
    judge = partial(judge_file, select=settings, reasoning=reasoning, teachers=teachers)
    return dict(zip(files, parallel_map(judge, files), strict=True))


def _rewrite_chains(
    chains: Path,
    judged: Mapping[Path, Sequence[Judgement]],
    verdicts: Mapping[str, str | None],
    scheme: AbilityScheme,
) -> tuple[Path, Counts]:
    """A folder beside the store with its chains under their new verdicts, and the counts of them all."""
    rewritten = empty_folder(chains.with_name(f"{chains.name}.selected.partial"))
    jobs = [
        (file, rewritten, {row.id: verdicts[row.id] for row in rows})
        for file, rows in judged.items()
    ]
    return rewritten, merge(parallel_map(partial(rewrite_file, scheme=scheme), jobs))


def _count_questions(
    rows: Sequence[Judgement], verdicts: Mapping[str, str | None]
) -> dict[str, int]:
    """Number of questions with a chain, and with a kept chain."""
    kept = {row.question_id for row in rows if verdicts[row.id] is None}
    return {"all": len({row.question_id for row in rows}), "kept": len(kept)}


def _recorded_usage(stats: Path) -> Any:
    """The engines' usage that a statistics file has; None if there is no file."""
    return json.loads(stats.read_text(encoding="utf-8"))["build"] if stats.is_file() else None
