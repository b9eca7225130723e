"""The sweep's page: which values are good, and whether σ comes to the same rest from anywhere."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from steper_ray.files import write_whole
from steper_ray.reports.html import render_page
from steper_ray.reports.sweep_charts import (
    BEST,
    OTHER,
    STOPPED,
    Line,
    Scale,
    against_chart,
    parallel_chart,
    rungs_chart,
    sigma_paths_chart,
)
from steper_ray.schema import ABILITIES
from steper_ray.sweep.settings import SweepConfig
from steper_ray.sweep.trial_files import Trial, short, status_counts

if TYPE_CHECKING:
    from markupsafe import Markup

    from steper_ray.run.config import RunConfig


NAMES = {"loss": "validation loss", "em": "exact match", "f1": "F1"}


def write_page(config: "RunConfig", trials: Sequence[Trial], best: Trial | None) -> None:
    """Write `sweep/sweep.html`."""
    section = config.sweep
    shown = [trial for trial in trials if trial.status != "unfinished"]
    metric = NAMES[section.metric]
    scales = [*(_scale(section, key, shown) for key in section.parameters), _metric(metric, shown)]
    lines = [
        Line(
            _paint(trial, best),
            [*(trial.point[s.name] for s in scales[:-1]), _finite(trial.metric)],
        )
        for trial in shown
    ]
    ranked = any(_finite(trial.metric) is not None for trial in shown)
    page = render_page(
        "sweep.html.j2",
        title=f"steper_ray: {config.dir.name}, a sweep",
        headline=headline(section, shown, best),
        setting=_setting(section, shown),
        metric=metric,
        parallel=parallel_chart(scales, lines) if ranked else None,
        against=[
            (scale.name, against_chart(scale, scales[-1], lines, place))
            for place, scale in enumerate(scales[:-1])
            if ranked
        ],
        paths=_paths(shown),
        meeting=meeting_line(shown),
        rungs=_rungs_chart(section, shown, best),
        arrivals=rung_counts(section, shown),
        head=["trial", *section.parameters, "status", section.metric]
        + [f"L {ability}" for ability in ABILITIES]
        + [f"σ {ability}" for ability in ABILITIES]
        + ["steps", "seconds"],
        rows=[_row(section, trial) for trial in shown],
        errors=[(trial.number, trial.error) for trial in shown if trial.error],
    )
    write_whole(config.sweep_dir / "sweep.html", page, errors="replace")


def headline(section: SweepConfig, trials: Sequence[Trial], best: Trial | None) -> str:
    """What came out, in one sentence."""
    if best is None:
        return f"None of {len(trials):,} trials finished."
    point = ", ".join(f"{key} {short(value)}" for key, value in best.point.items())
    return (
        f"Trial {best.number} is the best: {point}, {NAMES[section.metric]} {short(best.metric)}."
    )


def _setting(section: SweepConfig, trials: Sequence[Trial]) -> str:
    how = {"grid": "a grid", "random": "drawn at random", "optuna": "proposed by Optuna (TPE)"}
    asha = "; ASHA stopped the hopeless early" if section.scheduler == "asha" else ""
    return f"{len(trials):,} trials, {how[section.search]}{asha}: {status_counts(trials)}."


def _scale(section: SweepConfig, key: str, trials: Sequence[Trial]) -> Scale:
    parameter = section.parameters[key]
    values = [trial.point[key] for trial in trials]
    if parameter.choice is None:
        return Scale(key, values, log=parameter.log is not None)
    seen = [value for place, value in enumerate(values) if value not in values[:place]]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in seen):
        seen.sort()
    return Scale(key, values, categories=tuple(seen))


def _metric(name: str, trials: Sequence[Trial]) -> Scale:
    values = [_finite(trial.metric) for trial in trials]
    there = [value for value in values if value is not None]
    log = bool(there) and min(there) > 0 and max(there) > 5 * min(there)
    return Scale(name, values, log=log)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _paint(trial: Trial, best: Trial | None) -> str:
    if best is not None and trial.number == best.number:
        return BEST
    return STOPPED if trial.status == "stopped" else OTHER


def _learned(trials: Sequence[Trial]) -> list[Trial]:
    """Trials in which σ moved, and stayed in what can be drawn."""
    return [
        trial
        for trial in trials
        if trial.status != "failed"
        and any(
            len({value for _, value in trial.curves[f"sigma_{ability}"]}) > 1
            for ability in ABILITIES
        )
    ]


def _paths(trials: Sequence[Trial]) -> list[tuple[str, "Markup"]]:
    drawn: list[tuple[str, Markup]] = []
    for ability in ABILITIES:
        paths = [trial.curves[f"sigma_{ability}"] for trial in _learned(trials)]
        rests = [
            [(step, math.sqrt(max(loss, 1e-12))) for step, loss in trial.curves[f"L_{ability}"]]
            for trial in _learned(trials)
        ]
        if any(rests):
            drawn.append(
                (ability, sigma_paths_chart(ability, paths, [rest for rest in rests if rest]))
            )
    return drawn


def meeting_line(trials: Sequence[Trial]) -> str:
    """How far σ ended from √L, over the finished trials, as a sentence; empty where σ did not move."""
    parts = []
    for ability in ABILITIES:
        ratios = [
            trial.sigma[ability] / math.sqrt(sum(v for _, v in last) / len(last))  # type: ignore[operator]
            for trial in _learned(trials)
            if trial.status == "finished" and (last := trial.curves[f"L_{ability}"][-5:])
        ]
        if ratios:
            parts.append(f"{ability} {min(ratios):.2f} to {max(ratios):.2f}")
    if not parts:
        return ""
    return (
        "σ at the end over √L of the last five steps, lowest to highest of the finished trials "
        f"(1 is at rest): {'; '.join(parts)}."
    )


def rungs_of(section: SweepConfig, validations: int) -> list[int]:
    """ASHA's rungs, in validations, as far as trials came."""
    rungs, rung = [], section.asha_grace
    while rung <= validations:
        rungs.append(rung)
        rung *= section.asha_factor
    return rungs


def rung_counts(section: SweepConfig, trials: Sequence[Trial]) -> list[str]:
    """At each rung, how many arrived and how many were stopped there."""
    if section.scheduler != "asha":
        return []
    longest = max((len(trial.validations) for trial in trials), default=0)
    rungs = rungs_of(section, longest)
    lines = []
    for place, rung in enumerate(rungs):
        following = rungs[place + 1] if place + 1 < len(rungs) else math.inf
        arrived = [trial for trial in trials if len(trial.validations) >= rung]
        ended = [
            trial
            for trial in arrived
            if trial.status == "stopped" and len(trial.validations) < following
        ]
        lines.append(f"validation {rung}: {len(arrived)} arrived, {len(ended)} stopped")
    return lines


def _rungs_chart(
    section: SweepConfig, trials: Sequence[Trial], best: Trial | None
) -> "Markup | None":
    runs = []
    for trial in trials:
        losses = [one.loss for one in trial.validations if math.isfinite(one.loss)]
        lowest = [min(losses[: place + 1]) for place in range(len(losses))]
        if lowest:
            runs.append((_paint(trial, best), lowest, trial.status == "stopped"))
    if section.scheduler != "asha" or not runs:
        return None
    return rungs_chart(runs, rungs_of(section, max(len(losses) for _, losses, _ in runs)))


def _row(section: SweepConfig, trial: Trial) -> list[str]:
    return [
        str(trial.number),
        *(short(trial.point[key]) for key in section.parameters),
        trial.status,
        short(trial.metric),
        *(short(trial.loss[ability]) for ability in ABILITIES),
        *(short(trial.sigma[ability]) for ability in ABILITIES),
        f"{trial.step:,}/{trial.steps or 0:,}",
        f"{trial.seconds:,.0f}",
    ]
