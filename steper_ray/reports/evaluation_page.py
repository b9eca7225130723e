"""One self-contained page about a run: the student beside its base and its teacher.

The page holds its styles and charts inside and loads nothing, so it can be mailed, archived, or
opened from a bucket years later. Passages and model text are data: the template escapes every
value, and the page's own content policy forbids scripts and requests. The same rows give the same
bytes.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final, Literal

from steper_ray.evaluation.summary import Row, Scores, Summary
from steper_ray.files import write_whole
from steper_ray.reports.charts import Bar, exact_match_chart, loss_chart, sigma_chart
from steper_ray.reports.html import render_page
from steper_ray.reports.training_curves import (
    TrainingCurves,
    curve_charts,
    is_number,
    read_training,
)
from steper_ray.schema import UNKNOWN_HOPS

if TYPE_CHECKING:
    from markupsafe import Markup


Role = Literal["student", "base", "teacher", "other"]


UNKNOWN: Final = "–"


STOPPED: Final = {
    "answered": "Stopped because the model gave its answer.",
    "forced": "Stopped because the steps ran out: the prompt of the last step began the answer.",
    "no_query": "Stopped because a step named nothing to search for: the next prompt began the answer.",
    "nothing_new": "Stopped because searches brought nothing new: the last prompt began the answer.",
}


@dataclass(frozen=True, slots=True)
class ModelReport:
    """A model as the page compares it."""

    role: Role
    summary: Summary
    parameters: int | None = None
    """Number of weights; null where unknown."""
    size_bytes: int | None = None
    """Size of the weights on disk; null where unknown."""


def write_report(
    path: Path,
    *,
    title: str,
    models: Mapping[str, ModelReport],
    metrics_file: Path | None,
    chains: Sequence[Row],
) -> None:
    """Write the page to `path`; it appears there whole or not at all.

    models: by the name to show, in the order to show them
    metrics_file: the training's `metrics.jsonl`; where it is missing, the page says so
    chains: the student's rows of `schema.CHAIN_SCHEMA`, of which a few are printed to read
    """
    assert models, "a report compares at least one model"
    training = read_training(metrics_file) if metrics_file and metrics_file.is_file() else None
    page = render_page(
        "evaluation.html.j2",
        title=title,
        headline=headline(models),
        cost_line=cost_line(models),
        models=[(name, report.role, paint) for name, report, paint in _painted(models)],
        chart=_exact_match_chart(models),
        table_groups=_main_table(models),
        hops_table=_hops_table(models),
        training=_training_part(training) if training else None,
        examples=_examples(chains),
        errors=[chain["error"] for chain in chains if chain["error"] is not None],
    )
    write_whole(path, page, errors="replace")


def headline(models: Mapping[str, ModelReport]) -> str:
    """The result in one sentence: the student's exact match, beside base and teacher."""
    student, base, teacher = (_of_role(models, role) for role in ("student", "base", "teacher"))
    shown = student or next(iter(models.values()))
    name = "The student" if student else next(iter(models))
    scores = shown.summary.overall
    questions = f"{scores.questions:,} question{'' if scores.questions == 1 else 's'}"
    sentence = f"{name} answers {_percent(scores.em)} of {questions} exactly"
    if student and base:
        before = base.summary.overall.em
        change = f"{'up' if scores.em > before else 'down'} from {_percent(before)}"
        sentence += f", {change if scores.em != before else 'as many as'} before training"
    if student and teacher:
        best = teacher.summary.overall.em
        share = f": {_percent(scores.em / best, 0)} of its teacher’s" if best else ""
        sentence += f"{share or '; its teacher answers'} {_percent(best)}"
    return f"{sentence}."


def cost_line(models: Mapping[str, ModelReport]) -> str | None:
    """What a question costs the student beside its teacher; None without chains of both."""
    student, teacher = _of_role(models, "student"), _of_role(models, "teacher")
    if not student or not teacher:
        return None
    mine, theirs = student.summary.overall, teacher.summary.overall
    if not mine.produced or not theirs.produced:
        return None
    line = f"A question takes it {_seconds(mine.seconds)}, the teacher {_seconds(theirs.seconds)}"
    if student.parameters and teacher.parameters:
        small, large = _count(student.parameters), _count(teacher.parameters)
        line += f"; it has {small} parameters, the teacher {large}"
    return f"{line}."


@dataclass(frozen=True, slots=True)
class _Line:
    """A row of a table, one cell a model."""

    label: str
    cells: list[str]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Group:
    """Rows of a table under one heading."""

    heading: str
    lines: list[_Line]


def _main_table(models: Mapping[str, ModelReport]) -> list[_Group]:
    reports = list(models.values())
    overall = [report.summary.overall for report in reports]

    def costs(cells: Iterable[str]) -> list[str]:
        cells_of = zip(overall, cells, strict=True)
        return [cell if scores.produced else UNKNOWN for scores, cell in cells_of]

    answers = [
        _Line("Exact match", [_percent(scores.em) for scores in overall]),
        _Line("F1", [_percent(scores.f1) for scores in overall]),
        _Line("Accuracy", [_percent(scores.acc) for scores in overall]),
    ]
    question = [
        _Line("Time", costs(_seconds(scores.seconds) for scores in overall)),
        _Line("Steps", costs(f"{scores.steps:.1f}" for scores in overall)),
        _Line("Tokens read", costs(f"{scores.prompt_tokens:,.0f}" for scores in overall)),
        _Line("Tokens written", costs(f"{scores.generated_tokens:,.0f}" for scores in overall)),
    ]
    chains = [
        _Line("Questions", [f"{scores.questions:,}" for scores in overall]),
        _Line("Answer forced", [_percent(scores.forced) for scores in overall]),
        _Line("Errors", [f"{scores.errors:,}" for scores in overall]),
    ]
    size = [
        _Line("Parameters", [_count(report.parameters) for report in reports]),
        _Line("Weights on disk", [_bytes(report.size_bytes) for report in reports]),
    ]
    groups = [
        _Group("Answers", answers),
        _Group("Exact match by hops", _hops_lines(models, "em")),
        _Group("One question", question),
        _Group("All chains", chains),
        _Group("Model", [line for line in size if set(line.cells) != {UNKNOWN}]),
    ]
    return [group for group in groups if group.lines]


def _hops_table(models: Mapping[str, ModelReport]) -> list[_Group]:
    return [
        _Group("F1", _hops_lines(models, "f1")),
        _Group("Accuracy", _hops_lines(models, "acc")),
    ]


def _hops_lines(models: Mapping[str, ModelReport], metric: str) -> list[_Line]:
    lines = []
    for hops in _all_hops(models):
        groups = [report.summary.hops.get(hops) for report in models.values()]
        counts = sorted({scores.questions for scores in groups if scores})
        note = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        cells = [_percent(getattr(scores, metric)) if scores else UNKNOWN for scores in groups]
        lines.append(_Line(_hops_label(hops), cells, note))
    return lines


def _all_hops(models: Mapping[str, ModelReport]) -> list[str]:
    found = {hops for report in models.values() for hops in report.summary.hops}
    known = sorted(found - {UNKNOWN_HOPS}, key=int)
    return [*known, UNKNOWN_HOPS] if UNKNOWN_HOPS in found else known


def _hops_label(hops: str) -> str:
    return {UNKNOWN_HOPS: "Unknown", "1": "1 hop"}.get(hops, f"{hops} hops")


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
    hops = _all_hops(models)
    for count in hops if len(hops) > 1 else []:
        groups[_hops_label(count)] = [
            bar(report.summary.hops.get(count), paint) for _, report, paint in painted
        ]
    return exact_match_chart(groups)


def _training_part(training: TrainingCurves) -> dict[str, Any]:
    """What the template shows of the training."""
    curves = curve_charts(training)
    at_end = {sigma.name: sigma.last for sigma in curves.sigmas}
    rates = [r["tokens_per_second"] for r in training.rows if is_number(r.get("tokens_per_second"))]
    epoch = training.rows[-1].get("epoch") if training.rows else None
    return {
        "steps": len(training.rows),
        "epoch": epoch if is_number(epoch) else None,
        "tokens_per_second": median(rates) if rates else None,
        "unreadable": training.unreadable,
        "staged": curves.staged,
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
    if not any(chain["stop_reason"] != "answered" for chain in examples):
        forced = (chain for chain in produced if chain["stop_reason"] != "answered")
        examples += itertools.islice(forced, 1)
    return [_example(chain) for chain in examples]


def _example(chain: Row) -> dict[str, Any]:
    """A chain with each step's passages in place, and its query only where it is news."""
    passages = {passage["id"]: passage for passage in chain["passages"]}
    steps = []
    written_before: str | None = None
    for step in chain["steps"]:
        origins = {chain["question"]: "the question", written_before: "the sentence before"}
        found = [passages[id_] for id_ in step["passage_ids"]]
        steps.append({**step, "origin": origins.get(step["query"]), "passages": found})
        written_before = step["rationale"]
    return {**chain, "steps": steps, "stopped": STOPPED[chain["stop_reason"]]}


def _of_role(models: Mapping[str, ModelReport], role: Role) -> ModelReport | None:
    return next((report for report in models.values() if report.role == role), None)


def _percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}%"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def _count(number: int | None) -> str:
    """Three digits and a letter: 1.54B."""
    return UNKNOWN if number is None else "{}{}".format(*_scaled(number, ("", "k", "M", "B", "T")))


def _bytes(number: int | None) -> str:
    """Three digits and a unit: 3.09 GB."""
    return (
        UNKNOWN
        if number is None
        else "{} {}".format(*_scaled(number, ("B", "kB", "MB", "GB", "TB")))
    )


def _scaled(number: int, units: Sequence[str]) -> tuple[str, str]:
    power = 0
    while power < len(units) - 1 and round(number / 1000**power) >= 1000:
        power += 1
    return f"{number / 1000**power:.3g}", units[power]
