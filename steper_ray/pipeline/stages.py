"""The stages of the pipeline: `STAGES` is the one table that commands, jobs and docs are made from.

A new stage is a function `run_<stage>` and an entry in `STAGES`; `make docs` then writes its job and its
row in docs/architecture.md. Imports stand inside the functions, so that `steper --help` answers at once.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.errors import InputError, StageError
from steper_ray.pipeline.messages import (
    StageResult,
    build_lines,
    select_lines,
    sweep_lines,
    train_lines,
)
from steper_ray.pipeline.stage import Option, Stage

if TYPE_CHECKING:
    from steper_ray.data.settings import Split
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
    from steper_ray.retrieval.long_passages import long_passage_lines

    _check_own_data(config)
    folder = config.folder
    info = build_corpus(config.corpus, out=folder.corpus, inputs=folder.inputs, hub=config.hub)
    lines = [
        f"{info.passages:,} passages, version {info.version} → {info.folder}",
        *info.remarks,
        *_row_lines(config, "corpus.passages"),
    ]
    if info.passages:
        lines += long_passage_lines(info.folder, config.reasoning.passage_limit)
    return StageResult(lines, info)


def run_plan(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Predict what a build will take."""
    from steper_ray.pipeline.plan import compute_run, plan_run
    from steper_ray.planning.computed_table import computed_lines
    from steper_ray.planning.table import plan_lines

    _check_own_data(config)
    if config.plan.computed:
        computed = compute_run(config)
        numbers = f"as numbers → {config.folder.plan}"
        return StageResult([*computed_lines(computed), numbers], computed)
    planned = plan_run(config, progress.count)
    lines = [
        *plan_lines(planned),
        f"as numbers → {config.folder.plan}",
        *_overlap_lines(config, "train", read_others=True),
    ]
    return StageResult(lines, planned)


def run_build(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Let the teacher make the data."""
    from steper_ray.pipeline.build import build_run

    _check_own_data(config)
    summary = build_run(config, progress.count)
    rows = _row_lines(config, "questions.train")
    overlap = _overlap_lines(config, "train", read_others=True)
    return StageResult([*build_lines(summary), *rows, *overlap], summary)


def run_select(config: "RunConfig", _progress: "StageProgress") -> StageResult:
    """Select again among the existing chains."""
    from steper_ray.pipeline.select import select_run

    _check_own_data(config)
    summary = select_run(config)
    return StageResult(select_lines(summary, config.folder.dataset), summary)


def run_train(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Train the student."""
    from steper_ray.pipeline.training import following_metrics, forecast_training, train_student
    from steper_ray.planning.training import forecast_lines
    from steper_ray.training.storage import check_storage, cost_of_a_death, needed_storage
    from steper_ray.training.train import check_settings

    check_settings(config.train)

    def show(done: int, blocks: int) -> None:
        progress.update(done, blocks, f"preparing the examples: {done} of {blocks} blocks")

    if config.train.dry_run:
        forecast = forecast_training(config, on_prepared=show)
        return StageResult(forecast_lines(forecast, config.train), forecast)
    folder, needed = config.folder.root, needed_storage(config.train, config.hub)
    check_storage(folder, None)
    print(f"{'train':>6}  {cost_of_a_death(config.train, folder, needed)}", flush=True)
    with following_metrics(config.folder.metrics, progress):
        summary = train_student(config, on_prepared=show)
    return StageResult(train_lines(summary, config.folder.student), summary)


def run_eval(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Compare models on the held-out questions."""
    from steper_ray.evaluation.evaluate import score_lines
    from steper_ray.pipeline.evaluation import evaluate_run

    page, evaluation = evaluate_run(config, progress.update)
    rows = [*_row_lines(config, "questions.dev"), *_overlap_lines(config, "dev")]
    lines = [f"report → {page}", *score_lines(evaluation), *rows]
    return StageResult(lines, evaluation.summaries)


def run_compare(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Compare ways of learning."""
    from steper_ray.evaluation.compare import compare
    from steper_ray.pipeline.training import train_student
    from steper_ray.reports.comparison_page import text_lines, write_comparison_page

    comparison, students = compare(config, progress, train_student)
    write_comparison_page(config.folder.compare, comparison, students)
    page = config.folder.compare / "comparison.html"
    rows = _row_lines(config, "questions.dev", "questions.test")
    rows += _overlap_lines(config, "test")
    return StageResult([f"page → {page}", *text_lines(comparison), *rows], comparison)


def run_sweep(config: "RunConfig", progress: "StageProgress") -> StageResult:
    """Sweep over settings of the training."""
    from steper_ray.pipeline.training import train_student
    from steper_ray.reports.sweep_page import write_sweep_page
    from steper_ray.sweep.sweep import sweep

    summary, folder, section = (
        sweep(config, progress, train_student),
        config.folder.sweep,
        config.sweep,
    )
    write_sweep_page(
        folder / "sweep.html",
        title=f"steper_ray: {config.folder.root.name}, a sweep",
        section=section,
        train=config.train,
        trials=summary.trials,
        best=summary.best,
    )
    best = summary.best
    if best is None:
        first = next((f"; the first error: {t.error}" for t in summary.trials if t.error), "")
        raise StageError(
            f"sweep: none of {len(summary.trials):,} trials finished{first}; all are in "
            f"{folder / 'trials.csv'}"
        )
    counts = {
        "trials": len(summary.trials),
        "at_a_time": summary.at_a_time,
        "best": {"trial": best.number, "point": best.point, section.metric: best.metric},
    }
    return StageResult(sweep_lines(summary, best, section.metric, folder), counts)


def check_compare(config: "RunConfig") -> None:
    """Raises InputError for variants that cannot be trained."""
    from steper_ray.evaluation.compare import check_variants

    check_variants(config)


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
        lease="toy",
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
        lease="corpus",
        run=run_index,
        doing="indexing passages",
    ),
    "plan": Stage(
        help="predict time, tokens and size of a build from a small sample",
        packages=("planning",),
        sections=("plan", "build", "engine", "reasoning", "questions"),
        reads=("questions.train", "corpus"),
        writes=("plan", "chains"),
        options=(
            Option(
                "--sample",
                "questions that each teacher is asked, and the build then not (build.plan_sample)",
                metavar="N",
                setting="build.plan_sample",
                group="how",
            ),
            Option(
                "--no-sample",
                "compute from the models' configurations, without asking, GPU or Ray (plan.computed)",
                setting="plan.computed",
                group="how",
            ),
            Option(
                "--model-config",
                "with --no-sample: the teacher's config.json (plan.teacher_config)",
                metavar="FILE",
                setting="plan.teacher_config",
            ),
            Option(
                "--student-config",
                "with --no-sample: the base student's config.json (plan.student_config)",
                metavar="FILE",
                setting="plan.student_config",
            ),
            Option(
                "--gpu",
                "with --no-sample: GPU to compute with, as H100 (plan.gpu)",
                metavar="NAME",
                setting="plan.gpu",
            ),
            Option(
                "--gpu-memory",
                "with --no-sample: memory of a GPU, if not that of --gpu (plan.gpu_memory_gb)",
                metavar="GB",
                setting="plan.gpu_memory_gb",
            ),
        ),
        run=run_plan,
        doing="planning",
        needs_ray=lambda config: not config.plan.computed,
    ),
    "build": Stage(
        help="questions → the teacher's chains → step-wise examples",
        packages=("chains", "selection"),
        sections=("build", "engine", "reasoning", "questions", "select"),
        reads=("questions.train", "corpus", "chains"),
        writes=("chains", "dataset", "stats", "inputs"),
        lease="chains",
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
        lease="chains",
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
        lease="training",
        options=(
            Option(
                "--dry-run",
                "say what the training would take, from its data and a few steps (train.dry_run)",
                setting="train.dry_run",
            ),
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
        lease="evaluation",
        run=run_eval,
        doing="starting the engine",
    ),
    "compare": Stage(
        help="train the student in several ways and test which learns best",
        packages=("evaluation", "reports"),
        sections=("compare", "train"),
        reads=("examples", "questions.dev", "questions.test", "corpus"),
        writes=("compare", "inputs"),
        lease="compare",
        run=run_compare,
        doing="starting the workers",
        check=check_compare,
    ),
    "sweep": Stage(
        help="try several values of σ, learning rates and other settings of the training",
        packages=("sweep",),
        sections=("sweep", "train"),
        reads=("examples",),
        writes=("sweep",),
        lease="sweep",
        run=run_sweep,
        doing="preparing the examples",
        check=check_sweep,
    ),
}
"""The stages by name, in the order of a run; command, job and log of a stage have that name."""


ORDER: Final = ("toy", "index", "build", "train", "eval")
"""The stages of a range, in order; the ledger of a run has these."""


def is_small(chains: Path) -> bool:
    """Whether choosing among the chains takes less time than starting Ray."""
    return sum(file.stat().st_size for file in chains.glob("*.parquet")) < SMALL


def _check_own_data(config: "RunConfig") -> None:
    """Raises InputError where the data are another run's, which no stage of this one may change."""
    if config.run.data is not None:
        raise InputError(
            f"run.data: this run uses the data of {config.run.data}; leave run.data out to make its own"
        )


def _overlap_lines(config: "RunConfig", split: "Split", *, read_others: bool = False) -> list[str]:
    """Warnings of questions of a split that stand in another one that was read.

    read_others: whether to read the other splits for it
    """
    from steper_ray.data.overlap import overlap_lines
    from steper_ray.data.questions import load_other_splits

    if read_others or config.run.data is not None:
        load_other_splits(config.questions, split, config.folder.inputs)
    return overlap_lines(config.folder.inputs, split)


def _row_lines(config: "RunConfig", *settings: str) -> list[str]:
    """Rows read, used and skipped for each of the settings that name the user's files."""
    from steper_ray.data.row_counts import row_count_lines

    return row_count_lines(config.folder.inputs, *settings)
