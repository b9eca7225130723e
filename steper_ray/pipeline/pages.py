"""Pages and cards that the pipeline writes from the results of stages."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steper_ray.evaluation.evaluate import Evaluation
    from steper_ray.run.config import RunConfig


def write_evaluation(
    config: "RunConfig", evaluation: "Evaluation", folders: Mapping[str, str]
) -> Path:
    """Write the page of an evaluation, and the scores into the card of the run's student.

    folders: of the models, by name; a Hub name stays a name
    """
    from steper_ray.evaluation.summary import STUDENT
    from steper_ray.models.folder import model_size
    from steper_ray.reports.evaluation_page import report_role, write_evaluation_page
    from steper_ray.reports.evaluation_tables import ModelReport
    from steper_ray.reports.student_card import METRICS, add_scores

    summaries, student = evaluation.summaries, config.folder.student
    scores = {
        name: {metric: getattr(summary.overall, metric) for metric in METRICS}
        for name, summary in summaries.items()
    }
    for name, folder in folders.items():
        if Path(folder).resolve() == student.resolve():
            add_scores(student, name, scores, summaries[name].overall.questions)
    example = STUDENT if STUDENT in summaries else next(iter(summaries))
    page = config.folder.evaluation / "report.html"
    write_evaluation_page(
        page,
        title=f"steper_ray: {config.folder.root.name}",
        models={
            name: ModelReport(report_role(name), summary, *model_size(folders[name]))
            for name, summary in summaries.items()
        },
        metrics_file=config.folder.metrics,
        chains=evaluation.chains[example],
    )
    return page
