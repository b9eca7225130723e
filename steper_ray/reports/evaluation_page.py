"""Page of an evaluation: the student beside its base student and its teacher.

The page holds its styles, charts and chains inside and loads nothing, so it can be mailed, archived, or
opened from a bucket years later. Passages and model text are data: they are escaped, or packed and shown
as text, and the page's own content policy forbids requests, and scripts but its own. The same rows give
the same bytes.
"""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from steper_ray.evaluation.pairs import Pair, pair_text
from steper_ray.evaluation.summary import BASE, STUDENT, TEACHER, Row, Scores
from steper_ray.files import write_whole
from steper_ray.reports.chain_browser import chain_browser
from steper_ray.reports.charts import Bar, exact_match_chart
from steper_ray.reports.evaluation_tables import (
    ModelReport,
    Role,
    all_hops,
    count_text,
    hops_label,
    hops_table,
    main_table,
    percent_text,
    seconds_text,
)
from steper_ray.reports.html import render_page
from steper_ray.reports.markdown import as_text, table_lines
from steper_ray.reports.training_charts import loss_chart, sigma_chart
from steper_ray.reports.training_curves import (
    TrainingCurves,
    ability_curves,
    is_number,
    read_training,
)
from steper_ray.schema import is_forced
from steper_ray.text import UNKNOWN

if TYPE_CHECKING:
    from markupsafe import Markup


STOP_REASONS: Final = {
    "answered": "Stopped because the model gave its answer.",
    "forced": "Stopped because the steps ran out: the prompt of the last step began the answer.",
    "no_query": "Stopped because a step named nothing to search for: the next prompt began the answer.",
    "nothing_new": "Stopped because searches brought nothing new: the last prompt began the answer.",
}


def write_evaluation_page(
    path: Path,
    *,
    title: str,
    models: Mapping[str, ModelReport],
    metrics_file: Path | None,
    chains: Mapping[str, Sequence[Row]],
    pairs: Sequence[Pair] = (),
) -> None:
    """Write the page to a file, and its numbers as Markdown beside it, each whole or not at all.

    models: by the name to show, in the order to show them
    metrics_file: the training's `metrics.jsonl`; if it does not exist, the page says so
    chains: by model, rows of `schema.CHAIN_SCHEMA`, one a question, the same questions in the same order;
            of the student's a few are printed to read
    pairs: every two models, question by question
    """
    assert models, "a report compares at least one model"
    shown = chains[STUDENT] if STUDENT in chains else next(iter(chains.values()))
    training = read_training(metrics_file) if metrics_file and metrics_file.is_file() else None
    page = render_page(
        "evaluation.html.j2",
        title=title,
        headline=headline(models),
        cost_line=cost_line(models),
        gap_line=gap_line(models, pairs),
        pairs=list(map(pair_text, pairs)),
        models=[(name, report.role, paint) for name, report, paint in _painted(models)],
        chart=_exact_match_chart(models),
        table_groups=main_table(models),
        hops_table=hops_table(models),
        training=_training_part(training) if training else None,
        browser=chain_browser(chains),
        examples=_examples(shown),
        errors=[chain["error"] for chain in shown if chain["error"] is not None],
    )
    write_whole(path, page, errors="replace")
    text = "\n".join(markdown_lines(title, models, pairs)) + "\n"
    write_whole(path.with_suffix(".md"), text, errors="replace")


def markdown_lines(
    title: str, models: Mapping[str, ModelReport], pairs: Sequence[Pair]
) -> list[str]:
    """Result, comparisons and numbers of the page in Markdown."""
    said = [headline(models), gap_line(models, pairs), cost_line(models)]
    lines = [f"# {as_text(title)}", ""]
    lines += [part for line in said if line for part in (as_text(line), "")]
    lines += [f"- {as_text(pair_text(pair))}" for pair in pairs]
    for group in main_table(models):
        head = [group.heading, *map(as_text, models)]
        rows = [[as_text(f"{one.label} {one.note}"), *one.cells] for one in group.lines]
        lines += ["", *table_lines(head, rows)]
    return lines


def report_role(name: str) -> Role:
    """Role of a model by its name in an evaluation."""
    roles: dict[str, Role] = {STUDENT: "student", BASE: "base", TEACHER: "teacher"}
    return roles.get(name, "other")


def headline(models: Mapping[str, ModelReport]) -> str:
    """Result in one sentence: the student's exact match, beside base and teacher."""
    student, base, teacher = (_of_role(models, role) for role in ("student", "base", "teacher"))
    shown = student or next(iter(models.values()))
    name = "The student" if student else next(iter(models))
    scores = shown.summary.overall
    questions = f"{scores.questions:,} question{'' if scores.questions == 1 else 's'}"
    sentence = f"{name} answers {percent_text(scores.em)} of {questions} exactly"
    if student and base:
        before = base.summary.overall.em
        change = f"{'up' if scores.em > before else 'down'} from {percent_text(before)}"
        sentence += f", {change if scores.em != before else 'as many as'} before training"
    if student and teacher:
        best = teacher.summary.overall.em
        share = f": {percent_text(scores.em / best, 0)} of its teacher’s" if best else ""
        sentence += f"{share or '; its teacher answers'} {percent_text(best)}"
    return f"{sentence}."


def cost_line(models: Mapping[str, ModelReport]) -> str | None:
    """Cost of a question, student beside teacher, in one sentence; None without chains of both."""
    student, teacher = _of_role(models, "student"), _of_role(models, "teacher")
    if not student or not teacher:
        return None
    mine, theirs = student.summary.overall, teacher.summary.overall
    if not mine.produced or not theirs.produced:
        return None
    line = f"A question takes it {seconds_text(mine.seconds)}, the teacher {seconds_text(theirs.seconds)}"
    if student.parameters and teacher.parameters:
        small, large = count_text(student.parameters), count_text(teacher.parameters)
        line += f"; it has {small} parameters, the teacher {large}"
    return f"{line}."


def gap_line(models: Mapping[str, ModelReport], pairs: Sequence[Pair]) -> str | None:
    """How far the student is from its teacher, and where it is furthest behind; None without both."""
    student, teacher = _of_role(models, "student"), _of_role(models, "teacher")
    both = [pair for pair in pairs if _roles(models, pair) == {"student", "teacher"}]
    if not student or not teacher or not both:
        return None
    pair, mine, theirs = both[0], student.summary, teacher.summary
    gap = mine.overall.em - theirs.overall.em
    if not pair.is_sure:
        line = f"{pair.questions:,} questions do not tell it from its teacher"
    else:
        line = f"It is {abs(100 * gap):.1f} points {'above' if gap > 0 else 'below'} its teacher"
    behind = {
        label(name): ours[name].em - others[name].em
        for ours, others, label in (
            (mine.hops, theirs.hops, hops_label),
            (mine.types, theirs.types, str),
        )
        if len(ours) > 1
        for name in ours.keys() & others.keys()
    }
    worst = min(sorted(behind), key=behind.__getitem__, default=None)
    if worst is not None and behind[worst] < 0:
        line += f"; furthest behind: {worst}, by {-100 * behind[worst]:.1f} points"
    return f"{line}."


def _painted(models: Mapping[str, ModelReport]) -> list[tuple[str, ModelReport, str]]:
    """(name, report, name of the CSS variable that colours it)."""
    others = itertools.cycle(("other-0", "other-1", "other-2"))
    return [
        (name, report, next(others) if report.role == "other" else report.role)
        for name, report in models.items()
    ]


def _exact_match_chart(models: Mapping[str, ModelReport]) -> "Markup":
    """Over all questions and, where these differ in hops, for each hop count."""

    def bar(scores: Scores | None, paint: str) -> Bar:
        return Bar(paint, scores.em, scores.questions) if scores else Bar(paint, 0.0, 0)

    painted = _painted(models)
    groups = {"All": [bar(report.summary.overall, paint) for _, report, paint in painted]}
    hops = all_hops(models)
    for count in hops if len(hops) > 1 else []:
        groups[hops_label(count)] = [
            bar(report.summary.hops.get(count), paint) for _, report, paint in painted
        ]
    return exact_match_chart(groups)


def _training_part(training: TrainingCurves) -> dict[str, Any]:
    """Values of the template's part on the training."""
    curves = ability_curves(training)
    at_end = {sigma.name: sigma.last for sigma in curves.sigmas}
    rates = [r["tokens_per_second"] for r in training.rows if is_number(r.get("tokens_per_second"))]
    epoch = training.rows[-1].get("epoch") if training.rows else None
    return {
        "steps": len(training.rows),
        "epoch": epoch if is_number(epoch) else None,
        "tokens_per_second": median(rates) if rates else None,
        "unreadable": training.unreadable,
        "by_ability": curves.by_ability,
        "loss_chart": loss_chart(curves.losses) if curves.losses else None,
        "sigma_chart": sigma_chart(curves.sigmas, list(curves.rests.values()))
        if curves.sigmas
        else None,
        "ends": [
            {
                "ability": name,
                "loss": f"{loss.last:.3f}",
                "sigma": f"{at_end[name]:.3f}" if name in at_end else UNKNOWN,
                "rest": f"{curves.rests[name].last:.3f}",
                "weight": f"{1 / (2 * at_end[name] ** 2):.2f}" if at_end.get(name) else UNKNOWN,
            }
            for name, loss in curves.smooth.items()
        ],
    }


def _examples(chains: Sequence[Row]) -> list[dict[str, Any]]:
    """The first right, the first wrong and, if neither was forced, the first forced chain."""
    produced = [chain for chain in chains if chain["error"] is None]
    right = next((chain for chain in produced if chain["em"] == 1), None)
    wrong = next((chain for chain in produced if chain["em"] != 1), None)
    examples = [chain for chain in (right, wrong) if chain is not None]
    if not any(is_forced(chain["stop_reason"]) for chain in examples):
        forced = (chain for chain in produced if is_forced(chain["stop_reason"]))
        examples += itertools.islice(forced, 1)
    return [_example(chain) for chain in examples]


def _example(chain: Row) -> dict[str, Any]:
    """A chain with the passages of each step, and the earlier text that the step's query repeats."""
    passages = {passage["id"]: passage for passage in chain["passages"]}
    steps = []
    written_before: str | None = None
    for step in chain["steps"]:
        origins = {chain["question"]: "the question", written_before: "the sentence before"}
        retrieved = [passages[id_] for id_ in step["passage_ids"]]
        steps.append({**step, "origin": origins.get(step["query"]), "passages": retrieved})
        written_before = step["rationale"]
    return {
        **chain,
        "steps": steps,
        "stopped": STOP_REASONS[chain["stop_reason"]],
        "answer_forced": is_forced(chain["stop_reason"]),
    }


def _roles(models: Mapping[str, ModelReport], pair: Pair) -> set[Role]:
    return {models[pair.model].role, models[pair.other].role}


def _of_role(models: Mapping[str, ModelReport], role: Role) -> ModelReport | None:
    return next((report for report in models.values() if report.role == role), None)
