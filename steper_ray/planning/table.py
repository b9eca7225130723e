"""A plan as a table on the terminal."""

from collections.abc import Mapping
from typing import Final

from steper_ray.planning.costs import ALL, KINDS
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import Plan, TeacherPlan
from steper_ray.run.secrets import public_name
from steper_ray.text import UNKNOWN

TOKENS: Final = ("prompt tokens", "of which cached", "generated")
"""Titles of KINDS in a table."""


CUT_OFF: Final = "steps cut off"


FIRST: Final = 16
"""Width of the first column, in characters."""


CELL: Final = 23
"""Width of every other column."""


def plan_lines(plan: Plan) -> list[str]:
    """The plan as text; ± is half of a 95 % interval."""
    head = (
        f"{plan.questions:,} questions = {plan.finished:,} finished + {plan.remaining:,} remaining"
    )
    sample = f", predicted from {plan.sample:,}" if plan.sample else ""
    lines = [f"{head}{sample}; {plan.asked:,} asked just now"]
    if plan.others:
        lines.append(f"and {plan.others:,} chains of other questions or teachers, counted below")
    lines += ["", *_time(plan)]
    for teacher in plan.teachers:
        whose = f" of {_name(teacher)}" if len(plan.teachers) > 1 else ""
        spent: dict[str, Mapping[str, Estimate | None]] = {
            title: {ability: of[kind] for ability, of in teacher.tokens.items()}
            for kind, title in zip(KINDS, TOKENS, strict=True)
        }
        spent[CUT_OFF] = teacher.cut_off_steps
        lines += ["", *_by_ability(f"teacher{whose}", spent)]
    data = plan.data
    columns = {"examples": data.examples, "tokens": data.training_tokens}
    lines += ["", *_by_ability("training data", columns), ""]
    lines.append(f"{_count(data.kept)} kept of {_count(plan.chains)} chains")
    size = f"{_size(plan.chains_bytes)} in chains/, {_size(data.stepwise_bytes)} in stepwise/"
    return [*lines, f"on disk {size}", *plan.notes]


def _time(plan: Plan) -> list[str]:
    """Hours of the teachers, and the devices or requests that they need."""
    lines = [_row("", "questions an hour", "remaining hours", "hours for all")]
    for teacher in plan.teachers:
        hours = (teacher.hours_remaining, teacher.hours_all)
        lines.append(
            _row(_name(teacher), _number(teacher.questions_per_hour), *map(_number, hours))
        )
        if teacher.device:
            held = [hour and hour.times(teacher.devices) for hour in hours]
            many = f"× {teacher.devices:g} {teacher.device}{'' if teacher.devices == 1 else 's'}"
            lines.append(_row("", f"{many} = {teacher.device}-hours", *map(_number, held)))
        else:
            asked = (teacher.requests_remaining, teacher.requests_all)
            lines.append(_row("", "requests", *map(_count, asked)))
        if teacher.pace is not None:
            lines.append(
                f"{'':<{FIRST}}of each build {teacher.pace.start_seconds:,.0f} s to start, "
                f"{teacher.pace.idle_seconds:,.1f} s to warm up and drain, included in the hours"
            )
    if len(plan.teachers) > 1:
        both = map(_number, (plan.hours_remaining, plan.hours_all))
        lines.append(_row("one after another", "", *both))
    return lines


def _by_ability(title: str, columns: Mapping[str, Mapping[str, Estimate | None]]) -> list[str]:
    """One row per ability, and one of all in which the rounded numbers of the abilities add up."""
    cells = columns.values()
    names = [ability for ability in next(iter(cells)) if ability != ALL]
    lines = [_row(title, *columns)]
    lines += [_row(ability, *(_count(column[ability]) for column in cells)) for ability in names]
    return [*lines, _row(ALL, *(_count(_total(column)) for column in cells))]


def _total(column: Mapping[str, Estimate | None]) -> Estimate | None:
    """All abilities together: the sum of the rounded numbers of each."""
    whole = column[ALL]
    shown = [estimate for ability, estimate in column.items() if ability != ALL]
    if whole is None or None in shown:
        return None
    return Estimate(sum(round(part.value) for part in shown if part is not None), whole.margin)


def _row(first: str, *cells: str) -> str:
    return f"{first:<{FIRST}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _name(teacher: TeacherPlan) -> str:
    return teacher.name or public_name(teacher.model)


def _count(estimate: Estimate | None) -> str:
    """A whole number with its margin."""
    if estimate is None:
        return UNKNOWN
    return f"{estimate.value:,.0f}{_margin(estimate, '{:,.0f}')}"


def _number(estimate: Estimate | None) -> str:
    """A number with its margin, in as many digits as say something."""
    if estimate is None:
        return UNKNOWN
    digits = (
        0
        if estimate.value >= 100
        else 1
        if estimate.value >= 10
        else 2
        if estimate.value >= 1
        else 4
    )
    return f"{estimate.value:,.{digits}f}{_margin(estimate, f'{{:,.{digits}f}}')}"


def _margin(estimate: Estimate, how: str) -> str:
    if estimate.margin is None:
        return " ± ?"
    return f" ± {how.format(estimate.margin)}" if estimate.margin else ""


def _size(estimate: Estimate | None) -> str:
    """Bytes in a unit that a person reads."""
    if estimate is None:
        return UNKNOWN
    unit, scale = next(
        (name, size)
        for name, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
        if estimate.value >= size or size == 1.0
    )
    shown = estimate.times(1 / scale)
    return f"{shown.value:,.2f}{_margin(shown, '{:,.2f}')} {unit}"
