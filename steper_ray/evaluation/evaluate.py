"""Any model folder over the held-out questions, through the same loop as everything else."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.data.questions import load_questions
from steper_ray.evaluation.answer import answer
from steper_ray.files import write_whole
from steper_ray.models.folder import check_model, model_size
from steper_ray.models.hub import split_revision
from steper_ray.models.student_settings import carried_settings
from steper_ray.retrieval import corpus_version

if TYPE_CHECKING:
    from steper_ray.evaluation.summary import Summary
    from steper_ray.ray_runtime.progress import StageProgress
    from steper_ray.reports.evaluation_page import Role
    from steper_ray.run.config import RunConfig


STUDENT: Final = "student"


def evaluate(config: "RunConfig", progress: "StageProgress | None" = None) -> dict[str, "Summary"]:
    """Answer the held-out questions with each model; write its chains, `summary.json`, `report.html`.

    Needs a running Ray and an indexed corpus. Raises InputError for unusable input.
    """
    from steper_ray.evaluation.summary import summarize
    from steper_ray.reports.evaluation_page import ModelReport, write_report
    from steper_ray.reports.student_card import add_scores

    named = config.eval.models or {STUDENT: str(config.folder.student)}
    models, revisions = {}, {}
    for name, given in named.items():
        model, revisions[name] = split_revision(given)
        models[name] = check_model(model, f"eval.models.{name}", revisions[name])
    questions = load_questions(config.questions, "dev", config.folder.inputs)[: config.eval.limit]
    version = corpus_version(config.folder.corpus)
    summaries: dict[str, Summary] = {}
    rows: dict[str, list[dict[str, Any]]] = {}
    for number, (name, model) in enumerate(models.items()):
        carried = carried_settings(model)
        if carried and carried[1] != version:
            print(f"  eval  {name} was trained on corpus {carried[1]}, asked on {version}")

        def show(done: int, total: int, name: str = name, number: int = number) -> None:
            if progress is not None:
                progress.update(
                    number * total + done, len(models) * total, f"{name} {done:,}/{total:,}"
                )

        out = config.folder.evaluation / name
        rows[name] = answer(
            config, model, questions, out, on_progress=show, revision=revisions[name]
        )
        summaries[name] = summarize(rows[name])
    values = {name: asdict(summary) for name, summary in summaries.items()}
    write_whole(config.folder.evaluation / "summary.json", json.dumps(values, indent=2) + "\n")
    scores = {
        name: {"em": s.overall.em, "f1": s.overall.f1, "acc": s.overall.acc}
        for name, s in summaries.items()
    }
    for name, model in models.items():
        if Path(model).resolve() == config.folder.student.resolve():
            add_scores(config.folder.student, name, scores, len(questions))
    read = STUDENT if STUDENT in rows else next(iter(rows))
    write_report(
        config.folder.evaluation / "report.html",
        title=f"steper_ray: {config.folder.root.name}",
        models={
            name: ModelReport(_role(name), summary, *model_size(models[name]))
            for name, summary in summaries.items()
        },
        metrics_file=config.folder.metrics,
        chains=rows[read],
    )
    return summaries


def comparison_lines(summaries: "dict[str, Summary]") -> list[str]:
    """The comparison as a table of text, one model a line."""
    hops = list(dict.fromkeys(hop for summary in summaries.values() for hop in summary.hops))
    head = "".join(f"{f'{hop}-hop EM':>11}" for hop in hops)
    lines = [f"{'model':<10}{'EM':>7}{'F1':>7}{'Acc':>7}{head}{'s/question':>12}{'tokens':>8}"]
    for name, summary in summaries.items():
        scores = summary.overall
        by_hop = "".join(
            f"{100 * summary.hops[hop].em:>11.1f}" if hop in summary.hops else f"{'–':>11}"
            for hop in hops
        )
        lines.append(
            f"{name:<10}{100 * scores.em:>7.1f}{100 * scores.f1:>7.1f}{100 * scores.acc:>7.1f}"
            f"{by_hop}{scores.seconds:>12.2f}{scores.generated_tokens:>8.0f}"
        )
    return lines


def _role(name: str) -> "Role":
    return name if name in ("student", "base", "teacher") else "other"  # type: ignore[return-value]
