"""A comparison as a page, as a Markdown table, and as lines for the terminal."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.evaluation.summary import TEACHER
from steper_ray.files import write_whole
from steper_ray.reports.charts import Mark, interval_chart
from steper_ray.reports.html import render_page
from steper_ray.reports.markdown import table_lines
from steper_ray.reports.training_charts import sigma_chart_of
from steper_ray.text import UNKNOWN, percent_number
from steper_ray.training.metrics import METRICS_FILE

if TYPE_CHECKING:
    from steper_ray.evaluation.comparison import Comparison, Contender, TrainedStudent


METHOD: Final = "difficulty"
"""The variant that the headline is about."""


def write_comparison_page(
    folder: Path, comparison: "Comparison", students: Mapping[str, Sequence["TrainedStudent"]]
) -> None:
    """Write `comparison.md` and `comparison.html` to the folder of a comparison."""
    table_text = "\n".join(markdown_lines(comparison)) + "\n"
    write_whole(folder / "comparison.md", table_text, errors="replace")
    write_whole(folder / "comparison.html", _page(folder, comparison, students), errors="replace")


def headline(comparison: "Comparison") -> str:
    """Result in one sentence: `difficulty`, or else the best variant, against baseline and teacher.

    The best of several variants owes its rank partly to chance; the method is named beforehand.
    """
    by_name = {contender.name: contender for contender in comparison.contenders}
    baseline, teacher = by_name[comparison.baseline], by_name[TEACHER]
    learned = [c for c in comparison.contenders if c.lr is not None and c is not baseline]
    if not learned:
        return f"{baseline.name} answers {percent_number(baseline.summary.overall.em)}% exactly."
    best = max(learned, key=lambda c: (c.name == METHOD, c.summary.overall.em))
    em, points = best.summary.overall.em, 100 * best.difference["em"]
    surely = "" if best.p is not None and best.p < 0.05 else ", which may be chance"
    sentence = f"{best.name} answers {percent_number(em)}% exactly, {points:+.1f} points against "
    sentence += f"{baseline.name}{surely}"
    if teacher.summary.overall.em:
        share = em / teacher.summary.overall.em
        sentence += f"; that is {100 * share:.0f}% of its teacher’s"
    return f"{sentence}."


def _page(
    folder: Path, comparison: "Comparison", students: Mapping[str, Sequence["TrainedStudent"]]
) -> str:
    head, rows = table(comparison)
    tuning: dict[str, list[str]] = {}
    for trial in comparison.tuning:
        tuning.setdefault(trial.variant, []).append(f"{trial.lr:g}: {percent_number(trial.em)}")
    sigma_charts = {
        name: sigma_chart_of(trained[0].folder / "training" / METRICS_FILE)
        for name, trained in students.items()
    }
    sigma_of = next((name for name in reversed(sigma_charts) if sigma_charts[name]), "")
    return render_page(
        "comparison.html.j2",
        title=f"steper_ray: {folder.parent.name}, ways of learning compared",
        headline=headline(comparison),
        setting=f"{comparison.questions:,} test questions. Every variant learned from the same chains, "
        f"epochs: {comparison.epochs}, in as many optimizer steps.",
        baseline=comparison.baseline,
        chart=interval_chart([_mark(c, comparison.baseline) for c in comparison.contenders]),
        head=head,
        rows=rows,
        sigma_chart=sigma_charts.get(sigma_of),
        sigma_of=sigma_of,
        seeds=[
            (c.name, ", ".join(percent_number(em) for em in c.em_of_seed))
            for c in comparison.contenders
            if len(c.em_of_seed) > 1
        ],
        tuning=[(name, ", ".join(values)) for name, values in tuning.items()],
        dev_questions=comparison.dev_questions,
    )


def _mark(contender: "Contender", baseline: str) -> Mark:
    paint = "student"
    if contender.lr is None:
        paint = "teacher" if contender.name == TEACHER else "base"
    elif contender.name == baseline:
        paint = "other-0"
    return Mark(contender.name, paint, contender.summary.overall.em, *contender.interval["em"])


def table(comparison: "Comparison") -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of contenders, as text."""
    hops = list(dict.fromkeys(hop for c in comparison.contenders for hop in c.summary.hops))
    head = ["model", "EM", "95 %", "F1", "Acc", *(f"{hop}-hop" for hop in hops)]
    head += [f"EM − {comparison.baseline}", "p (Holm)", "lr", "tokens in", "supervised"]
    return head, [_row(contender, hops) for contender in comparison.contenders]


def _row(contender: "Contender", hops: Sequence[str]) -> list[str]:
    scores = contender.summary.overall
    low, high = contender.interval["em"]
    name = contender.name
    if len(contender.em_of_seed) > 1:
        name += f" ({len(contender.em_of_seed)} seeds)"
    row = [name, percent_number(scores.em), f"{percent_number(low)}–{percent_number(high)}"]
    row += [percent_number(scores.f1), percent_number(scores.acc)]
    row += [
        percent_number(contender.summary.hops[hop].em) if hop in contender.summary.hops else UNKNOWN
        for hop in hops
    ]
    if contender.p is None:
        row += [UNKNOWN, UNKNOWN]
    else:
        low, high = contender.difference_interval
        change = f"{100 * contender.difference['em']:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        row += [change, "<0.001" if contender.p < 0.001 else f"{contender.p:.3f}"]
    if contender.lr is None:
        return [*row, UNKNOWN, UNKNOWN, UNKNOWN]
    return [
        *row,
        f"{contender.lr:g}",
        f"{contender.input_tokens:,}",
        f"{contender.supervised_tokens:,}",
    ]


def markdown_lines(comparison: "Comparison") -> list[str]:
    """The table in Markdown."""
    head, rows = table(comparison)
    return table_lines(head, rows)


def text_lines(comparison: "Comparison") -> list[str]:
    """The table for a terminal: columns aligned, without the last two."""
    head, rows = table(comparison)
    cells = [line[:-2] for line in (head, *rows)]
    widths = [max(len(cell) for cell in column) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in cells
    ]
