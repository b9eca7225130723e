"""The stages of the pipeline by name: what each runs."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from steper_ray.data.row_counts import row_count_lines
from steper_ray.errors import InputError
from steper_ray.pipeline.messages import pushed_lines, usage_lines
from steper_ray.ray_runtime.progress import StageProgress

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


SMALL: Final = 8 * 2**20
"""Bytes of chains that are chosen among in seconds without Ray; some thousand chains."""


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a run."""

    doing: str
    run: Callable[["RunConfig", StageProgress], list[str]]
    """Does the work and returns the lines to show."""


def run_toy(config: "RunConfig", _progress: StageProgress) -> list[str]:
    """Write the toy world."""
    from steper_ray.toy.write import write_toy

    folder = write_toy(config)
    toy = config.toy
    return [f"world {toy.seed}: {toy.train + toy.dev + toy.test:,} questions → {folder}"]


def run_index(config: "RunConfig", _progress: StageProgress) -> list[str]:
    """Index the corpus."""
    from steper_ray.retrieval.corpus import build_corpus

    _check_own_data(config)
    info = build_corpus(config)
    return [
        f"{info.passages:,} passages, version {info.version} → {info.folder}",
        *row_count_lines(config.folder.root, "corpus.passages"),
    ]


def run_plan(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Predict what a build will take."""
    from steper_ray.planning.plan import plan
    from steper_ray.planning.table import plan_lines

    _check_own_data(config)
    return [*plan_lines(plan(config, progress.count)), f"as numbers → {config.folder.plan}"]


def run_build(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Let the teacher make the data."""
    from steper_ray.chains.build import build

    _check_own_data(config)
    summary = build(config, progress.count)
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in summary.rejected.items())
    examples = " · ".join(f"{ability} {count:,}" for ability, count in summary.examples.items())
    left_out, totals = sum(summary.rejected.values()), summary.totals
    more = "" if summary.chains == summary.questions else f"{summary.chains:,} chains of "
    parts = f"{summary.kept:,} kept + {left_out:,} rejected ({rejected or 'none'})"
    dropped = f"{totals['dropped_passages']:,} dropped passages"
    return [
        f"{more}{summary.questions:,} questions = {parts}",
        f"examples: {examples}; {totals['forced']:,} forced, {dropped}",
        *usage_lines(summary.ran, summary.chains),
        *row_count_lines(config.folder.root, "questions.train"),
        *pushed_lines(summary.pushed),
    ]


def run_select(config: "RunConfig", _progress: StageProgress) -> list[str]:
    """Choose again among the chains there are."""
    from steper_ray.selection.select import select_examples

    _check_own_data(config)
    selected = select_examples(config)
    counts = selected.counts
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in counts.rejected.items())
    left_out = counts.chains - counts.kept
    examples = " · ".join(f"{ability} {count:,}" for ability, count in counts.abilities.items())
    changes = ", ".join(
        f"{count:,} {before or 'kept'} → {now or 'kept'}"
        for (before, now), count in selected.changes.most_common()
    )
    return [
        f"{counts.chains:,} chains = {counts.kept:,} kept + {left_out:,} rejected ({rejected or 'none'})",
        f"changed: {changes or 'nothing'}",
        f"examples: {examples} → {config.folder.dataset}",
        *pushed_lines(selected.pushed),
    ]


def run_train(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Train the student."""
    from steper_ray.pipeline.training import train_student

    with following_metrics(config.folder.metrics, progress):
        summary = train_student(config)
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
    return [
        f"{summary.steps:,}{of} steps{validation} → {config.folder.student}",
        f"last losses: {losses or f'{summary.loss:.4f}'}; σ: {sigma}; {layout}",
    ]


def run_eval(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Compare models on the held-out questions."""
    from steper_ray.evaluation.evaluate import comparison_lines, evaluate

    summaries = evaluate(config, progress)
    return [
        f"report → {config.folder.evaluation / 'report.html'}",
        *comparison_lines(summaries),
        *row_count_lines(config.folder.root, "questions.dev"),
    ]


def run_compare(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Compare ways of learning."""
    from steper_ray.evaluation.compare import compare
    from steper_ray.pipeline.training import train_student
    from steper_ray.reports.comparison_page import text_lines

    result = compare(config, progress, train_student)
    return [
        f"page → {config.folder.compare / 'comparison.html'}",
        *text_lines(result),
        *row_count_lines(config.folder.root, "questions.dev", "questions.test"),
    ]


def run_sweep(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Sweep over settings of the training."""
    from steper_ray.pipeline.training import train_student
    from steper_ray.sweep.sweep import sweep
    from steper_ray.sweep.trial_files import short, status_counts

    swept = sweep(config, progress, train_student)
    best, folder = swept.best, config.folder.sweep
    point = ", ".join(f"{key} {short(value)}" for key, value in best.point.items())
    failed = next((trial for trial in swept.trials if trial.status == "failed"), None)
    return [
        f"page → {folder / 'sweep.html'}",
        f"{len(swept.trials):,} trials: {status_counts(swept.trials)}; {swept.at_a_time:,} at a time",
        *([f"trial {failed.number} failed: {failed.error}"] if failed else []),
        f"best: trial {best.number}, {config.sweep.metric} {best.metric:.4f}: {point}",
        f"as a run file → {folder / 'best.yaml'}; its student → {folder / 'best' / 'student'}",
    ]


STAGES: Final = {
    "toy": Stage("inventing a world", run_toy),
    "index": Stage("indexing passages", run_index),
    "plan": Stage("starting the teacher", run_plan),
    "build": Stage("starting the teacher", run_build),
    "select": Stage("choosing among the chains", run_select),
    "train": Stage("starting the workers", run_train),
    "eval": Stage("starting the engine", run_eval),
    "compare": Stage("starting the workers", run_compare),
    "tune": Stage("preparing the examples", run_sweep),
}


def is_small(chains: Path) -> bool:
    """Whether choosing among the chains takes less time than starting Ray."""
    return sum(file.stat().st_size for file in chains.glob("*.parquet")) < SMALL


def _check_own_data(config: "RunConfig") -> None:
    """Raises InputError where the data are another run's, which no stage of this one may change."""
    if config.run.data is not None:
        raise InputError(
            f"run.data: this run uses the data of {config.run.data}; leave run.data out to make its own"
        )


@contextmanager
def following_metrics(metrics: Path, progress: StageProgress) -> Iterator[None]:
    """Show the newest line of the training metrics while the block runs."""
    stop = Event()
    before = metrics.stat().st_mtime if metrics.exists() else 0.0

    def follow() -> None:
        while not stop.wait(1.0):
            if not metrics.exists() or metrics.stat().st_mtime == before:
                continue
            lines = metrics.read_text(encoding="utf-8").split("\n")
            if len(lines) < 2:
                continue
            last = json.loads(lines[-2])  # the last line may still be on its way
            progress.update(
                last["step"],
                last["steps"],
                f"step {last['step']}/{last['steps']}  "
                f"loss {last['loss']:.3f}  {last['tokens_per_second']:,.0f} tokens/s",
            )

    thread = Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
