"""The stages of the pipeline: `STAGES` is the one table that commands, jobs and docs are made from.

A new stage is a function `run_<stage>` and an entry in `STAGES`; `make docs` then writes its job and its
row in docs/architecture.md. Imports stand inside the functions, so that `steper --help` answers at once.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.errors import InputError, StageError
from steper_ray.pipeline.messages import StageResult, pushed_lines, row_count_lines, usage_lines
from steper_ray.pipeline.stage import Option, Stage

if TYPE_CHECKING:
    from steper_ray.ray_runtime.progress import StageProgress
    from steper_ray.run.config import RunConfig


SMALL: Final = 8 * 2**20
"""Bytes of chains that are chosen among in seconds without Ray; some thousand chains."""


def run_toy(config: "RunConfig", _progress: "StageProgress") -> StageResult:
    """Write the toy world."""
    from steper_ray.toy.write import write_toy

    toy, folder = config.toy, config.folder.toy
    write_toy(toy, folder)
    lines = [f"world {toy.seed}: {toy.train + toy.dev + toy.test:,} questions → {folder}"]
    return StageResult(lines, {"train": toy.train, "dev": toy.dev, "test": toy.test})


def run_index(config: "RunConfig", _progress: "StageProgress") -> StageResult:
    """Index the corpus."""
    from steper_ray.retrieval.corpus import build_corpus

    _check_own_data(config)
    folder = config.folder
    info = build_corpus(config.corpus, out=folder.corpus, inputs=folder.inputs, hub=config.hub)
    lines = [
        f"{info.passages:,} passages, version {info.version} → {info.folder}",
        *row_count_lines(config.folder.inputs, "corpus.passages"),
    ]
    return StageResult(lines, info)


def run_plan(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Predict what a build will take."""
    from steper_ray.pipeline.plan import plan_run
    from steper_ray.planning.table import plan_lines

    _check_own_data(config)
    planned = plan_run(config, progress.count)
    lines = [*plan_lines(planned), f"as numbers → {config.folder.plan}"]
    return StageResult(lines, planned)


def run_build(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Let the teacher make the data."""
    from steper_ray.pipeline.build import build_run

    _check_own_data(config)
    summary = build_run(config, progress.count)
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in summary.rejected.items())
    examples = " · ".join(f"{ability} {count:,}" for ability, count in summary.examples.items())
    left_out, totals = sum(summary.rejected.values()), summary.totals
    more = "" if summary.chains == summary.questions else f"{summary.chains:,} chains of "
    parts = f"{summary.kept:,} kept + {left_out:,} rejected ({rejected or 'none'})"
    dropped = f"{totals['dropped_passages']:,} dropped passages"
    lines = [
        f"{more}{summary.questions:,} questions = {parts}",
        f"examples: {examples}; {totals['forced']:,} forced, {dropped}",
        *usage_lines(summary.usage, summary.chains),
        *row_count_lines(config.folder.inputs, "questions.train"),
        *pushed_lines(summary.pushed),
    ]
    return StageResult(lines, summary)


def run_select(config: "RunConfig", _progress: "StageProgress") -> StageResult:
    """Choose again among the chains there are."""
    from steper_ray.pipeline.select import select_run

    _check_own_data(config)
    selected = select_run(config)
    counts = selected.counts
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in counts.rejected.items())
    left_out = counts.chains - counts.kept
    examples = " · ".join(f"{ability} {count:,}" for ability, count in selected.examples.items())
    changes = ", ".join(
        f"{count:,} {before or 'kept'} → {now or 'kept'}"
        for (before, now), count in selected.changes.most_common()
    )
    lines = [
        f"{counts.chains:,} chains = {counts.kept:,} kept + {left_out:,} rejected ({rejected or 'none'})",
        f"changed: {changes or 'nothing'}",
        f"examples: {examples} → {config.folder.dataset}",
        *pushed_lines(selected.pushed),
    ]
    return StageResult(lines, selected)


def run_train(config: "RunConfig", progress: "StageProgress") -> StageResult:
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
    lines = [
        f"{summary.steps:,}{of} steps{validation} → {config.folder.student}",
        f"last losses: {losses or f'{summary.loss:.4f}'}; σ: {sigma}; {layout}",
    ]
    return StageResult(lines, summary)


def run_eval(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Compare models on the held-out questions."""
    from steper_ray.data.questions import load_questions
    from steper_ray.evaluation.compare import evaluated_model
    from steper_ray.evaluation.evaluate import evaluate, score_lines
    from steper_ray.evaluation.summary import STUDENT
    from steper_ray.models.folder import check_model
    from steper_ray.models.hub import split_revision
    from steper_ray.pipeline.pages import write_evaluation

    models = {}
    for name, address in (config.eval.models or {STUDENT: str(config.folder.student)}).items():
        model, revision = split_revision(address)
        model = check_model(model, f"eval.models.{name}", revision)
        models[name] = evaluated_model(config, model, revision)
    evaluation = evaluate(
        models,
        load_questions(config.questions, "dev", config.folder.inputs)[: config.eval.limit],
        corpus=config.folder.corpus,
        out=config.folder.evaluation,
        log=config.folder.log("eval"),
        on_progress=progress.update,
    )
    page = write_evaluation(config, evaluation, {name: m.model for name, m in models.items()})
    lines = [
        f"report → {page}",
        *score_lines(evaluation.summaries),
        *row_count_lines(config.folder.inputs, "questions.dev"),
    ]
    return StageResult(lines, evaluation.summaries)


def run_compare(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Compare ways of learning."""
    from steper_ray.evaluation.compare import compare
    from steper_ray.pipeline.training import train_student
    from steper_ray.reports.comparison_page import text_lines, write_comparison_page

    comparison, students = compare(config, progress, train_student)
    write_comparison_page(config.folder.compare, comparison, students)
    lines = [
        f"page → {config.folder.compare / 'comparison.html'}",
        *text_lines(comparison),
        *row_count_lines(config.folder.inputs, "questions.dev", "questions.test"),
    ]
    return StageResult(lines, comparison)


def run_sweep(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Sweep over settings of the training."""
    from steper_ray.pipeline.training import train_student
    from steper_ray.reports.sweep_page import write_sweep_page
    from steper_ray.sweep.sweep import sweep
    from steper_ray.sweep.trial_table import short, status_counts

    summary = sweep(config, progress, train_student)
    trials, best, folder = summary.trials, summary.best, config.folder.sweep
    write_sweep_page(
        folder / "sweep.html",
        title=f"steper_ray: {config.folder.root.name}, a sweep",
        section=config.sweep,
        trials=trials,
        best=best,
    )
    if best is None:
        first = next((f"; the first error: {t.error}" for t in trials if t.error), "")
        raise StageError(
            f"sweep: none of {len(trials):,} trials finished{first}; all are in "
            f"{folder / 'trials.csv'}"
        )
    point = ", ".join(f"{key} {short(value)}" for key, value in best.point.items())
    failed = next((trial for trial in trials if trial.status == "failed"), None)
    lines = [
        f"page → {folder / 'sweep.html'}",
        f"{len(trials):,} trials: {status_counts(trials)}; {summary.at_a_time:,} at a time",
        *([f"trial {failed.number} failed: {failed.error}"] if failed else []),
        f"best: trial {best.number}, {config.sweep.metric} {best.metric:.4f}: {point}",
        f"as a run file → {folder / 'best.yaml'}; its student → {folder / 'best' / 'student'}",
    ]
    counts = {
        "trials": len(trials),
        "at_a_time": summary.at_a_time,
        "best": {"trial": best.number, "point": best.point, config.sweep.metric: best.metric},
    }
    return StageResult(lines, counts)


def check_sweep(config: "RunConfig") -> None:
    """Raises InputError for parameters of a sweep that cannot be tried."""
    from steper_ray.sweep.space import check_space

    check_space(config.sweep, config.train)


PUSH_EXAMPLES: Final = Option(
    "--push-to-hub",
    "upload the examples with their card to the Hugging Face Hub (build.push_to_hub)",
    metavar="OWNER/NAME",
    setting="build.push_to_hub",
)


STAGES: Final[dict[str, Stage]] = {
    "toy": Stage(
        help="invent a toy world: passages, questions, tiny models",
        packages=("toy",),
        sections=("toy",),
        writes=("toy",),
        run=run_toy,
        doing="inventing a world",
        needs_ray=lambda _config: False,
    ),
    "index": Stage(
        help="passages → a Lance dataset with its BM25 index",
        packages=("data", "retrieval"),
        sections=("corpus",),
        reads=("corpus.passages",),
        writes=("corpus", "inputs"),
        run=run_index,
        doing="indexing passages",
    ),
    "plan": Stage(
        help="predict time, tokens and size of a build from a small sample",
        packages=("planning",),
        sections=("build", "engine", "reasoning", "questions"),
        reads=("questions.train", "corpus"),
        writes=("plan", "chains"),
        options=(
            Option(
                "--sample",
                "questions that each teacher is asked, and the build then not (build.plan_sample)",
                metavar="N",
                setting="build.plan_sample",
            ),
        ),
        run=run_plan,
        doing="starting the teacher",
    ),
    "build": Stage(
        help="questions → the teacher's chains → step-wise examples",
        packages=("chains", "selection"),
        sections=("build", "engine", "reasoning", "questions", "select"),
        reads=("questions.train", "corpus", "chains"),
        writes=("chains", "dataset", "stats", "inputs"),
        options=(
            PUSH_EXAMPLES,
            Option(
                "--fresh",
                "delete the existing chains and ask every question again",
                setting="build.fresh",
            ),
            Option(
                "--mix",
                "add chains to existing ones that another version made by other rules (build.mix)",
                setting="build.mix",
            ),
        ),
        run=run_build,
        doing="starting the teacher",
    ),
    "select": Stage(
        help="select again among the teacher's chains, without the teacher",
        packages=("selection",),
        sections=("select",),
        reads=("chains",),
        writes=("chains", "dataset", "stats"),
        options=(PUSH_EXAMPLES,),
        run=run_select,
        doing="selecting among the chains",
        needs_ray=lambda config: not is_small(config.folder.chains),
    ),
    "train": Stage(
        help="step-wise examples → a trained student",
        packages=("training",),
        sections=("train",),
        reads=("examples",),
        writes=("training", "checkpoints", "student"),
        options=(
            Option(
                "--push-to-hub",
                "upload the student to the Hugging Face Hub (train.push_to_hub)",
                metavar="OWNER/NAME",
                setting="train.push_to_hub",
            ),
        ),
        run=run_train,
        doing="starting the workers",
    ),
    "eval": Stage(
        help="compare models on held-out questions, write report.html",
        packages=("evaluation", "reports"),
        sections=("eval", "engine", "reasoning", "questions"),
        reads=("questions.dev", "corpus", "student"),
        writes=("evaluation", "inputs"),
        run=run_eval,
        doing="starting the engine",
    ),
    "compare": Stage(
        help="train the student in several ways and test which learns best",
        packages=("evaluation", "reports"),
        sections=("compare", "train"),
        reads=("examples", "questions.dev", "questions.test", "corpus"),
        writes=("compare", "inputs"),
        run=run_compare,
        doing="starting the workers",
    ),
    "sweep": Stage(
        help="try several values of σ, learning rates and other settings of the training",
        packages=("sweep",),
        sections=("sweep", "train"),
        reads=("examples",),
        writes=("sweep",),
        run=run_sweep,
        doing="preparing the examples",
        check=check_sweep,
    ),
}
"""The stages by name, in the order of a run; command, job and log of a stage have that name."""


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
def following_metrics(metrics: Path, progress: "StageProgress") -> Iterator[None]:
    """Show the newest line of the training metrics while the block runs."""
    from steper_ray.ray_runtime.watch import calling_every

    before = metrics.stat().st_mtime if metrics.exists() else 0.0

    def show() -> None:
        if not metrics.exists() or metrics.stat().st_mtime == before:
            return
        lines = metrics.read_text(encoding="utf-8").split("\n")
        if len(lines) < 2:
            return
        last = json.loads(lines[-2])  # the last line may still be on its way
        progress.update(
            last["step"],
            last["steps"],
            f"step {last['step']}/{last['steps']}  "
            f"loss {last['loss']:.3f}  {last['tokens_per_second']:,.0f} tokens/s",
        )

    with calling_every(1.0, show):
        yield
