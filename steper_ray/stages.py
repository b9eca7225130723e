"""The stages by name: what each runs, and what it says when it is done.

Library, command line and Ray jobs all come through here.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Final

from steper_ray.accounts import account_lines
from steper_ray.display import StageProgress, stage_done, stage_progress
from steper_ray.errors import InputError, StageError, is_full_disk
from steper_ray.pretrained import use_hub
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.session import ray_session, stderr_to

if TYPE_CHECKING:
    from steper_ray.config import RunConfig
    from steper_ray.stepwise.chains import Ran

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
    from steper_ray.toy.stage import write_toy

    folder = write_toy(config)
    toy = config.toy
    return [f"world {toy.seed}: {toy.train + toy.dev + toy.test:,} questions → {folder}"]


def run_index(config: "RunConfig", _progress: StageProgress) -> list[str]:
    """Index the corpus."""
    from steper_ray.corpus import build_corpus

    _check_own_data(config)
    info = build_corpus(config)
    return [
        f"{info.passages:,} passages, version {info.version} → {info.folder}",
        *account_lines(config.dir, "corpus.passages"),
    ]


def run_plan(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Predict what a build will take."""
    from steper_ray.stepwise.plan import plan
    from steper_ray.stepwise.plan_lines import plan_lines

    _check_own_data(config)
    return [*plan_lines(plan(config, progress.count)), f"as numbers → {config.plan_file}"]


def run_build(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Let the teacher make the data."""
    from steper_ray.stepwise.build import build

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
        *_ran(summary.ran, summary.chains),
        *account_lines(config.dir, "questions.train"),
        *_pushed(summary.pushed),
    ]


def _ran(ran: "Ran", chains: int) -> list[str]:
    """How the engines ran, and what the caches spared them."""
    if not ran.asked:
        return [f"all {chains:,} chains were there"]
    actors = f", {ran.starts:,} actors started" if ran.starts > 1 else ""
    seconds = max(ran.engine_seconds, 1e-9)
    speed = (
        f"{ran.asked / seconds:,.1f} questions/s, {ran.generated_tokens / seconds:,.0f} tokens/s"
    )
    prompts = (
        f"{_share(ran.cached_tokens, ran.prompt_tokens)} of {ran.prompt_tokens:,} prompt tokens"
    )
    searches = f"{_share(ran.remembered, ran.searches)} of {ran.searches:,} searches"
    before = f"{max(0, chains - ran.chains):,} of {chains:,} chains"
    return [
        f"asked {ran.asked:,}: {speed} without the engines' start{actors}",
        f"from caches: {prompts}, {searches}; from before: {before}",
    ]


def _share(part: int, whole: int) -> str:
    return f"{100 * part / max(1, whole):.0f} %"


def run_select(config: "RunConfig", _progress: StageProgress) -> list[str]:
    """Choose again among the chains there are."""
    from steper_ray.stepwise.build import write_examples

    _check_own_data(config)
    selected = write_examples(config)
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
        f"examples: {examples} → {config.dataset_dir}",
        *_pushed(selected.pushed),
    ]


def run_train(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Train the student."""
    from steper_ray.training.trainer import train

    with _following(config.metrics_file, progress):
        summary = train(config)
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
        f"{summary.steps:,}{of} steps{validation} → {config.student_dir}",
        f"last losses: {losses or f'{summary.loss:.4f}'}; σ: {sigma}; {layout}",
    ]


def run_eval(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Compare models on the held-out questions."""
    from steper_ray.evaluation.evaluate import comparison_lines, evaluate

    summaries = evaluate(config, progress)
    return [
        f"report → {config.evaluation_dir / 'report.html'}",
        *comparison_lines(summaries),
        *account_lines(config.dir, "questions.dev"),
    ]


def run_compare(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Compare ways of learning."""
    from steper_ray.evaluation.compare import compare
    from steper_ray.evaluation.comparison_page import text_lines

    result = compare(config, progress)
    return [
        f"page → {config.compare_dir / 'comparison.html'}",
        *text_lines(result),
        *account_lines(config.dir, "questions.dev", "questions.test"),
    ]


def run_tune(config: "RunConfig", progress: StageProgress) -> list[str]:
    """Sweep over settings of the training."""
    from steper_ray.sweep.sweep import sweep
    from steper_ray.sweep.trials import counted, short

    swept = sweep(config, progress)
    best, folder = swept.best, config.sweep_dir
    point = ", ".join(f"{key} {short(value)}" for key, value in best.point.items())
    failed = next((trial for trial in swept.trials if trial.status == "failed"), None)
    return [
        f"page → {folder / 'sweep.html'}",
        f"{len(swept.trials):,} trials: {counted(swept.trials)}; {swept.at_a_time:,} at a time",
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
    "tune": Stage("preparing the examples", run_tune),
}


def run_stage(name: str, config: "RunConfig") -> float:
    """Run one stage under a progress line; returns its seconds."""
    stage = STAGES[name]
    started = time.monotonic()
    with stage_progress(name, stage.doing) as progress, stderr_to(config.log_file(name)):
        try:
            lines = stage.run(config, progress)
        except Exception as error:
            if is_full_disk(error):
                raise StageError(
                    f"{name}: no space left on the disk of {config.dir} or of Ray's temporary folder; make "
                    "room and give the same command again, it goes on from what is written"
                ) from error
            raise
    seconds = time.monotonic() - started
    stage_done(name, seconds, lines)
    return seconds


def run_command(name: str, config: "RunConfig", *, update: bool = False) -> None:
    """Run a subcommand of `steper`.

    update: of `serve`: change the server that is running instead of starting one
    """
    use_hub(config.hub)
    complete_reasoning(config.reasoning)  # what is wrong with it is said before Ray starts
    if update:
        from steper_ray.serving.app import find_cluster, update_server

        find_cluster(config)
        with ray_session():
            update_server(config)
        return
    if name == "tune":
        from steper_ray.sweep.space import check_space

        check_space(config.sweep, config.train)  # at once: Ray takes seconds to start
    if name == "toy" or (name == "select" and _is_small(config.chains_dir)):
        run_stage(name, config)
        return
    with ray_session():
        if name == "demo":
            from steper_ray.demo import demo

            demo(config)
        elif name == "serve":
            from steper_ray.serving.app import serve_until_interrupted

            serve_until_interrupted(config)
        else:
            run_stage(name, config)


def _pushed(address: str | None) -> list[str]:
    return [] if address is None else [f"pushed → {address}"]


def _is_small(chains: Path) -> bool:
    """Whether choosing among the chains takes less time than starting Ray."""
    return sum(file.stat().st_size for file in chains.glob("*.parquet")) < SMALL


def _check_own_data(config: "RunConfig") -> None:
    """Raises InputError where the data are another run's, which no stage of this one may change."""
    if config.run.data is not None:
        raise InputError(
            f"run.data: this run uses the data of {config.run.data}; leave run.data out to make its own"
        )


@contextmanager
def _following(metrics: Path, progress: StageProgress) -> Iterator[None]:
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
