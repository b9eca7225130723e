"""A plan as lines that a person reads."""

from collections.abc import Mapping
from typing import Final

from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import ALL, KINDS, Plan, TeacherPlan
from steper_ray.run.secrets import public_name
from steper_ray.schema import ABILITIES

UNKNOWN: Final = "–"


TOKENS: Final = ("prompt tokens", "of which cached", "generated")
"""What KINDS are called in a table."""


FIRST: Final = 16
"""Columns of what a row is called."""


CELL: Final = 23
"""Columns of a cell."""


def plan_lines(plan: Plan) -> list[str]:
    """The plan as text; ± is half of a 95 % interval."""
    head = f"{plan.questions:,} questions = {plan.there:,} there + {plan.left:,} left"
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
        lines += ["", *_by_ability(f"teacher{whose}", spent)]
    data = plan.data
    columns = {"examples": data.examples, "tokens": data.training_tokens}
    lines += ["", *_by_ability("training data", columns), ""]
    lines.append(f"{_count(data.kept)} kept of {_count(plan.chains)} chains")
    size = f"{_size(plan.chains_bytes)} in chains/, {_size(data.stepwise_bytes)} in stepwise/"
    return [*lines, f"on disk {size}", *plan.notes]


def _time(plan: Plan) -> list[str]:
    """How long the teachers take, and what they hold meanwhile."""
    lines = [_row("", "questions an hour", "hours left", "hours for all")]
    for take in plan.teachers:
        hours = (take.hours_left, take.hours_all)
        lines.append(_row(_name(take), _number(take.questions_per_hour), *map(_number, hours)))
        if take.device:
            held = [hour and hour.times(take.devices) for hour in hours]
            many = f"× {take.devices:g} {take.device}{'' if take.devices == 1 else 's'}"
            lines.append(_row("", f"{many} = {take.device}-hours", *map(_number, held)))
        else:
            asked = (take.requests_left, take.requests_all)
            lines.append(_row("", "requests", *map(_count, asked)))
        if take.pace is not None:
            lines.append(
                f"{'':<{FIRST}}of each build {take.pace.start_seconds:,.0f} s to start, "
                f"{take.pace.idle_seconds:,.1f} s to warm up and run empty, in the hours"
            )
    if len(plan.teachers) > 1:
        both = map(_number, (plan.hours_left, plan.hours_all))
        lines.append(_row("one after another", "", *both))
    return lines


def _by_ability(title: str, columns: Mapping[str, Mapping[str, Estimate | None]]) -> list[str]:
    """A row an ability and one of all, in which the rounded numbers of the abilities add up."""
    lines = [_row(title, *columns)]
    lines += [
        _row(ability, *(_count(one[ability]) for one in columns.values())) for ability in ABILITIES
    ]
    return [*lines, _row(ALL, *(_count(_whole(one)) for one in columns.values()))]


def _whole(abilities: Mapping[str, Estimate | None]) -> Estimate | None:
    """All abilities together: the sum of what is shown of each."""
    whole = abilities[ALL]
    shown = [abilities[ability] for ability in ABILITIES]
    if whole is None or None in shown:
        return None
    return Estimate(sum(round(one.value) for one in shown if one is not None), whole.margin)


def _row(first: str, *cells: str) -> str:
    return f"{first:<{FIRST}}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _name(take: TeacherPlan) -> str:
    return take.name or public_name(take.model)


def _count(one: Estimate | None) -> str:
    """A whole number with its margin."""
    if one is None:
        return UNKNOWN
    return f"{one.value:,.0f}{_margin(one, '{:,.0f}')}"


def _number(one: Estimate | None) -> str:
    """A number with its margin, in as many digits as say something."""
    if one is None:
        return UNKNOWN
    digits = 0 if one.value >= 100 else 1 if one.value >= 10 else 2 if one.value >= 1 else 4
    return f"{one.value:,.{digits}f}{_margin(one, f'{{:,.{digits}f}}')}"


def _margin(one: Estimate, how: str) -> str:
    if one.margin is None:
        return " ± ?"
    return f" ± {how.format(one.margin)}" if one.margin else ""


def _size(one: Estimate | None) -> str:
    """Bytes in a unit that a person reads."""
    if one is None:
        return UNKNOWN
    unit, scale = next(
        (name, size)
        for name, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
        if one.value >= size or size == 1.0
    )
    shown = one.times(1 / scale)
    return f"{shown.value:,.2f}{_margin(shown, '{:,.2f}')} {unit}"
