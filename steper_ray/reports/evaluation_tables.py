"""Tables of an evaluation's page: scores, costs and sizes, one column a model."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeVar

from steper_ray.evaluation.summary import AbilityScore, Scores, Summary, interval_text
from steper_ray.schema import UNKNOWN_HOPS
from steper_ray.text import UNKNOWN, percent_number

Role = Literal["student", "base", "teacher", "other"]


T = TypeVar("T")


STOPPED: Final[dict[str, str]] = {
    "answered": "Answered by itself",
    "forced": "Steps ran out",
    "no_query": "Named no search",
    "nothing_new": "Found nothing new",
}


@dataclass(frozen=True, slots=True)
class ModelReport:
    """Scores and size of a model on the page."""

    role: Role
    summary: Summary
    parameters: int | None = None
    """Number of weights; None if unknown."""
    size_bytes: int | None = None
    """Size of the weights on disk; None if unknown."""


@dataclass(frozen=True, slots=True)
class TableLine:
    """A row of a table, one cell a model."""

    label: str
    cells: list[str]
    note: str = ""


@dataclass(frozen=True, slots=True)
class TableGroup:
    """Rows of a table under one heading."""

    heading: str
    lines: list[TableLine]


def main_table(models: Mapping[str, ModelReport]) -> list[TableGroup]:
    """Scores overall and exact match by hops, costs of a question, counts of chains, sizes of models."""
    reports = list(models.values())
    overall = [report.summary.overall for report in reports]

    def costs(cells: Iterable[str]) -> list[str]:
        cells_of = zip(overall, cells, strict=True)
        return [cell if scores.produced else UNKNOWN for scores, cell in cells_of]

    answers = [
        TableLine("Exact match", [percent_text(scores.em) for scores in overall]),
        TableLine("F1", [percent_text(scores.f1) for scores in overall]),
        TableLine("Accuracy", [percent_text(scores.acc) for scores in overall]),
        TableLine("Substring", [percent_text(scores.acc_substring) for scores in overall]),
        TableLine("Any answer", [percent_text(scores.answered) for scores in overall]),
    ]
    question = [
        TableLine("Time", costs(seconds_text(scores.seconds) for scores in overall)),
        TableLine("Time, median", costs(seconds_text(scores.seconds_p50) for scores in overall)),
        TableLine("Time, 95%", costs(seconds_text(scores.seconds_p95) for scores in overall)),
        TableLine("Steps", costs(f"{scores.steps:.1f}" for scores in overall)),
        TableLine("Tokens read", costs(f"{scores.prompt_tokens:,.0f}" for scores in overall)),
        TableLine("Tokens written", costs(f"{scores.generated_tokens:,.0f}" for scores in overall)),
    ]
    right = [
        TableLine(
            "Time", [_per_right(scores.seconds_per_right, seconds_text) for scores in overall]
        ),
        TableLine(
            "Tokens", [_per_right(scores.tokens_per_right, "{:,.0f}".format) for scores in overall]
        ),
    ]
    reasons = dict.fromkeys(reason for scores in overall for reason in scores.stop_reasons)
    chains = [
        TableLine("Questions", [f"{scores.questions:,}" for scores in overall]),
        *(
            TableLine(
                STOPPED[reason],
                costs(percent_text(scores.stop_reasons.get(reason, 0.0)) for scores in overall),
            )
            for reason in reasons
        ),
        TableLine("Steps cut off", costs(percent_text(scores.cut_off) for scores in overall)),
        TableLine("Errors", [f"{scores.errors:,}" for scores in overall]),
    ]
    groups = [
        TableGroup("Answers", answers),
        TableGroup("Exact match by hops", _hops_lines(models, "em")),
        TableGroup("Exact match by type", _type_lines(models)),
        TableGroup("Single steps right", _ability_lines(models)),
        TableGroup("Gold passages found by", _step_lines(overall, "recall")),
        TableGroup("Share of gold among passages found by", _step_lines(overall, "precision")),
        TableGroup("One question", question),
        TableGroup("One right answer", right),
        TableGroup("All chains", chains),
        TableGroup("Model", _size_lines(reports)),
    ]
    return [group for group in groups if group.lines]


def _size_lines(reports: Sequence[ModelReport]) -> list[TableLine]:
    """The sizes that are known of any model."""
    size = [
        TableLine("Parameters", [count_text(report.parameters) for report in reports]),
        TableLine("Weights on disk", [bytes_text(report.size_bytes) for report in reports]),
    ]
    return [line for line in size if set(line.cells) != {UNKNOWN}]


def hops_table(models: Mapping[str, ModelReport]) -> list[TableGroup]:
    """F1, accuracy and the share of gold passages that were found, by hops."""
    groups = [
        TableGroup("F1", _hops_lines(models, "f1")),
        TableGroup("Accuracy", _hops_lines(models, "acc")),
    ]
    if any(report.summary.overall.recall for report in models.values()):
        groups.append(TableGroup("Gold passages found", _hops_lines(models, "found")))
    return groups


def _step_lines(overall: Sequence[Scores], share: str) -> list[TableLine]:
    """A share up to each step."""
    shares = [getattr(scores, share) for scores in overall]
    return [
        TableLine(f"Step {number}", [_up_to(of_model, number) for of_model in shares])
        for number in range(1, max(map(len, shares)) + 1)
    ]


def _up_to(shares: Sequence[float], step: int) -> str:
    """A share by a step; chains that ended before it keep theirs."""
    return percent_text(shares[:step][-1]) if shares else UNKNOWN


def _per_right(cost: float | None, text: Callable[[float], str]) -> str:
    return UNKNOWN if cost is None else text(cost)


def _type_lines(models: Mapping[str, ModelReport]) -> list[TableLine]:
    """Exact match by what the data set calls its questions, with their number."""
    parts = [report.summary.types for report in models.values()]
    names = {name: name for part in parts for name in part}
    return _part_lines(parts, names, lambda one: one.questions, lambda one: percent_text(one.em))


def _ability_lines(models: Mapping[str, ModelReport]) -> list[TableLine]:
    """Each ability by itself, with its interval; none of a model that was asked for no single steps."""

    def cell(score: AbilityScore) -> str:
        return interval_text(score.right, score.steps) if score.steps else UNKNOWN

    parts = [report.summary.abilities for report in models.values()]
    names = {name: name for part in parts for name in part}
    return _part_lines(parts, names, lambda score: score.steps, cell)


def _hops_lines(models: Mapping[str, ModelReport], metric: str) -> list[TableLine]:
    def cell(scores: Scores) -> str:
        share = getattr(scores, metric)
        return UNKNOWN if share is None else percent_text(share)

    parts = [report.summary.hops for report in models.values()]
    names = {hops: hops_label(hops) for hops in all_hops(models)}
    return _part_lines(parts, names, lambda one: one.questions, cell)


def _part_lines(
    parts: Sequence[Mapping[str, T]],
    names: Mapping[str, str],
    count: Callable[[T], int],
    cell: Callable[[T], str],
) -> list[TableLine]:
    """A line for each part of the questions or steps, with their number.

    parts: of each model; names: of the parts, and how a line is labelled
    """
    lines = []
    for name, label in names.items():
        found = [of_model.get(name) for of_model in parts]
        counts = sorted({count(one) for one in found if one})
        note = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
        lines.append(TableLine(label, [cell(one) if one else UNKNOWN for one in found], note))
    return lines


def all_hops(models: Mapping[str, ModelReport]) -> list[str]:
    """Hop counts of the questions, fewest first, unknown ones last."""
    seen = {hops for report in models.values() for hops in report.summary.hops}
    known = sorted(seen - {UNKNOWN_HOPS}, key=int)
    return [*known, UNKNOWN_HOPS] if UNKNOWN_HOPS in seen else known


def hops_label(hops: str) -> str:
    """Label of a hop count: `1 hop`, `3 hops`, `Unknown`."""
    return {UNKNOWN_HOPS: "Unknown", "1": "1 hop"}.get(hops, f"{hops} hops")


def percent_text(share: float, digits: int = 1) -> str:
    """A share in percent: 43.2%."""
    return f"{percent_number(share, digits)}%"


def seconds_text(seconds: float) -> str:
    """Three digits and the unit: 1.23 s."""
    return f"{seconds:.1f} s" if seconds >= 10 else f"{seconds:.2f} s"


def count_text(number: int | None) -> str:
    """A count with three digits and a letter: 1.54B."""
    return UNKNOWN if number is None else "{}{}".format(*_scaled(number, ("", "k", "M", "B", "T")))


def bytes_text(number: int | None) -> str:
    """A size with three digits and a unit: 3.09 GB."""
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
