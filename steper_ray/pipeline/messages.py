"""Closing words of a stage: the lines it shows when it has finished, and the same counts as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from steper_ray.chains.usage import EngineUsage
    from steper_ray.pipeline.build import BuildSummary
    from steper_ray.selection.select import SelectionSummary
    from steper_ray.sweep.sweep import SweepSummary
    from steper_ray.sweep.trial_files import Trial
    from steper_ray.training.summary import TrainSummary


MOST_FAULTS: Final = 10
"""Names that are shown, of those for which most chains are ungrounded."""


@dataclass(frozen=True, slots=True)
class StageResult:
    """Result of a finished stage, for people and for programs."""

    lines: list[str]
    """Lines to show."""
    counts: object
    """The numbers in them: a dataclass or a dictionary."""


def write_summary(file: Path, name: str, seconds: float, counts: object) -> None:
    """Write the closing counts of a stage as JSON."""
    from pydantic_core import to_jsonable_python

    from steper_ray.files import write_whole

    values = {"stage": name, "seconds": round(seconds, 3), "counts": to_jsonable_python(counts)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def build_lines(summary: "BuildSummary") -> list[str]:
    """Questions, chains and examples of a build, and the usage of its engines."""
    more = "" if summary.chains == summary.questions else f"{summary.chains:,} chains of "
    verdicts = _verdicts(summary.chains, summary.kept, summary.rejected)
    totals = summary.totals
    counted = f"{totals['forced']:,} forced, {totals['cut_off_steps']:,} steps cut off"
    dropped = f"{totals['dropped_passages']:,} dropped passages"
    if cut := totals["cut_steps"]:
        dropped += f", {cut:,} steps cut to one sentence"
    return [
        f"{more}{summary.questions:,} questions = {verdicts}",
        f"examples: {_examples(summary.examples)}; {counted}, {dropped}",
        *nothing_kept_lines(summary.chains, summary.kept, summary.rejected),
        *usage_lines(summary.usage, summary.chains),
        *pushed_lines(summary.pushed),
    ]


def select_lines(summary: "SelectionSummary", dataset: Path) -> list[str]:
    """Chains, changed verdicts and examples of a selection."""
    counts = summary.counts
    changes = ", ".join(
        f"{count:,} {before or 'kept'} → {now or 'kept'}"
        for (before, now), count in summary.changes.most_common()
    )
    return [
        f"{counts.chains:,} chains = {_verdicts(counts.chains, counts.kept, counts.rejected)}",
        f"changed: {changes or 'nothing'}",
        *nothing_kept_lines(counts.chains, counts.kept, counts.rejected),
        *_fault_lines(summary.faults),
        f"examples: {_examples(summary.examples)} → {dataset}",
        *pushed_lines(summary.pushed),
    ]


def nothing_kept_lines(chains: int, kept: int, rejected: Mapping[str, int]) -> list[str]:
    """The reason to look at first where no chain is kept; no line where one is."""
    from steper_ray.selection.rejection import REJECTIONS

    if kept or not rejected:
        return []
    order = list(REJECTIONS)
    reason = max(rejected, key=lambda code: (rejected[code], -order.index(code)))
    line = (
        f"no chain is kept, so there is nothing to train on; look at {reason} first "
        f"({rejected[reason]:,} of {chains:,} chains): {REJECTIONS[reason]}. `steper show` prints a chain"
    )
    return [line]


def _fault_lines(faults: Mapping[str, int]) -> list[str]:
    """The names for which most chains are ungrounded."""
    most = sorted(faults.items(), key=lambda item: (-item[1], item[0]))[:MOST_FAULTS]
    names = ", ".join(f"{name} ({count:,})" for name, count in most)
    return [f"ungrounded for: {names}"] if names else []


def train_lines(summary: "TrainSummary", student: Path) -> list[str]:
    """Steps, losses and σ of a training."""
    sigma = " · ".join(f"{ability} {value:.3f}" for ability, value in summary.sigma.items())
    losses = " · ".join(
        f"{ability} {value:.4f}"
        for ability, value in summary.ability_losses.items()
        if value is not None
    )
    layout = "chains packed by their common prefixes"
    if summary.separate_because is not None:
        layout = f"separate examples, not packed: {summary.separate_because}"
    of = f" of {summary.planned_steps:,}" if summary.steps < summary.planned_steps else ""
    validation = ""
    if summary.validation_loss is not None:
        validation = f", validation loss {summary.validation_loss:.4f}"
    version = f" ({student.resolve().name})" if student.is_symlink() else ""
    clipped = ""
    if summary.clipped_share is not None:
        clipped = f"; {summary.clipped_share:.0%} of the steps clipped (train.max_grad_norm)"
    return [
        f"{summary.steps:,}{of} steps{validation} → {student}{version}",
        f"last losses: {losses or f'{summary.loss:.4f}'}; σ: {sigma}; {layout}{clipped}",
    ]


def sweep_lines(summary: "SweepSummary", best: "Trial", metric: str, folder: Path) -> list[str]:
    """Trials of a sweep, and the best one."""
    from steper_ray.sweep.trial_table import short, status_counts

    trials = summary.trials
    point = ", ".join(f"{key} {short(value)}" for key, value in best.point.items())
    failed = next((trial for trial in trials if trial.status == "failed"), None)
    return [
        f"page → {folder / 'sweep.html'}",
        f"{len(trials):,} trials: {status_counts(trials)}; {summary.at_a_time:,} at a time",
        *([f"trial {failed.number} failed: {failed.error}"] if failed else []),
        f"best: trial {best.number}, {metric} {best.metric:.4f}: {point}",
        f"as a run file → {folder / 'best.yaml'}; its student → {folder / 'best' / 'student'}",
    ]


def _verdicts(chains: int, kept: int, rejected: Mapping[str, int]) -> str:
    """Kept and rejected chains, with the reasons."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in rejected.items())
    return f"{kept:,} kept + {chains - kept:,} rejected ({reasons or 'none'})"


def _examples(examples: Mapping[str, int]) -> str:
    """Examples of each ability."""
    return " · ".join(f"{ability} {count:,}" for ability, count in examples.items())


def usage_lines(ran: "EngineUsage", chains: int) -> list[str]:
    """Speed of the engines, and the share of their work that caches spared."""
    if not ran.asked:
        return [f"nothing to ask: all {chains:,} chains exist"]
    actors = f", {ran.starts:,} actors started" if ran.starts > 1 else ""
    seconds = max(ran.engine_seconds, 1e-9)
    speed = (
        f"{ran.asked / seconds:,.1f} questions/s, {ran.generated_tokens / seconds:,.0f} tokens/s"
    )
    prompts = (
        f"{percent_of(ran.cached_tokens, ran.prompt_tokens)} of {ran.prompt_tokens:,} prompt tokens"
    )
    searches = f"{percent_of(ran.remembered, ran.searches)} of {ran.searches:,} searches"
    before = f"{max(0, chains - ran.chains):,} of {chains:,} chains"
    return [
        f"asked {ran.asked:,}: {speed} without the engines' start{actors}",
        f"from caches: {prompts}, {searches}; reused from earlier builds: {before}",
    ]


def percent_of(part: int, whole: int) -> str:
    """A share in whole percent."""
    return f"{100 * part / max(1, whole):.0f} %"


def pushed_lines(address: str | None) -> list[str]:
    """Address of an uploaded repository; no line for None."""
    return [] if address is None else [f"pushed → {address}"]
