"""`steper eval` for a run: models on the dev questions, the page, and scores in the student's card."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steper_ray.evaluation.evaluate import Evaluation
    from steper_ray.run.config import RunConfig


def evaluate_run(
    config: "RunConfig", on_progress: "Callable[[int, int, str], None]"
) -> "tuple[Path, Evaluation]":
    """Evaluate the models of a run; returns the page that shows it, and the evaluation.

    Needs a running Ray and an indexed corpus. Raises InputError for a model that cannot be used.
    """
    from steper_ray.evaluation.compare import dev_questions, evaluated_model
    from steper_ray.evaluation.evaluate import evaluate
    from steper_ray.evaluation.summary import STUDENT
    from steper_ray.models.folder import check_model
    from steper_ray.models.hub import split_revision
    from steper_ray.reasoning.demonstrations import complete_reasoning
    from steper_ray.run.versions import in_use
    from steper_ray.selection.abilities import ability_scheme

    models = {}
    for name, address in (config.eval.models or {STUDENT: str(config.folder.student)}).items():
        model, revision = split_revision(address)
        model = check_model(model, f"eval.models.{name}", revision)
        models[name] = evaluated_model(config, model, revision, name=name)
        if name in config.eval.reasoning:
            own = complete_reasoning(config.eval.reasoning[name])
            models[name] = replace(models[name], reasoning=own)
    corpus = config.folder.corpus.resolve()
    with ExitStack() as held:
        for folder in (corpus, *(Path(model.model) for model in models.values())):
            held.enter_context(in_use(folder))
        evaluation = evaluate(
            models,
            dev_questions(config),
            corpus=corpus,
            out=config.folder.evaluation,
            log=config.folder.log("eval"),
            abilities=ability_scheme(config.select.abilities) if config.eval.abilities else None,
            on_progress=on_progress,
        )
    page = write_evaluation(config, evaluation, {name: m.model for name, m in models.items()})
    return page, evaluation


def write_evaluation(
    config: "RunConfig", evaluation: "Evaluation", folders: Mapping[str, str]
) -> Path:
    """Write the page of an evaluation, and the scores into the card of the run's student.

    folders: of the models, by name; a Hub name stays a name
    """
    from steper_ray.models.folder import model_size
    from steper_ray.reports.evaluation_page import report_role, write_evaluation_page
    from steper_ray.reports.evaluation_tables import ModelReport
    from steper_ray.reports.student_card import METRICS, add_scores
    from steper_ray.run.versions import versions

    summaries, student = evaluation.summaries, config.folder.student
    scores = {
        name: {metric: getattr(summary.overall, metric) for metric in METRICS}
        for name, summary in summaries.items()
    }
    students = {folder.resolve() for folder in (student, *versions(student))}
    for name, folder in folders.items():
        if Path(folder).resolve() in students:
            add_scores(Path(folder), name, scores, summaries[name].overall.questions)
    page = config.folder.evaluation / "report.html"
    write_evaluation_page(
        page,
        title=f"steper_ray: {config.folder.root.name}",
        models={
            name: ModelReport(
                report_role(name), summary, *model_size(folders[name], hub=config.hub)
            )
            for name, summary in summaries.items()
        },
        metrics_file=config.folder.metrics,
        chains=evaluation.chains,
        pairs=evaluation.pairs,
    )
    return page
