"""Page of a sweep: scores by value of each key, and whether σ comes to the same rest from any start."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.files import write_whole
from steper_ray.reports.drawing import ability_paints
from steper_ray.reports.html import render_page
from steper_ray.reports.sweep_charts import (
    BEST,
    OTHER,
    STOPPED,
    Line,
    Run,
    Scale,
    against_chart,
    parallel_chart,
    rungs_chart,
    sigma_paths_chart,
)
from steper_ray.sweep.settings import SweepConfig
from steper_ray.sweep.space import applied, budget
from steper_ray.sweep.trial_files import Trial, ability_names
from steper_ray.sweep.trial_table import short, status_counts
from steper_ray.training.settings import TrainConfig

if TYPE_CHECKING:
    from markupsafe import Markup


METRIC_NAMES: Final = {"loss": "validation loss", "em": "exact match", "f1": "F1"}


def write_sweep_page(
    file: Path,
    *,
    title: str,
    section: SweepConfig,
    train: TrainConfig,
    trials: Sequence[Trial],
    best: Trial | None,
) -> None:
    """Write the page of a sweep to a file, whole or not at all; unfinished trials are not shown.

    train: the train section that the trials vary
    """
    shown = [trial for trial in trials if trial.status != "unfinished"]
    abilities = ability_names(shown)
    metric = METRIC_NAMES[section.metric]
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
        title=title,
        headline=headline(section, shown, best),
        setting=_setting(section, shown),
        metric=metric,
        parallel=parallel_chart(scales, lines) if ranked else None,
        against=[
            (scale.name, against_chart(scale, scales[-1], lines, index))
            for index, scale in enumerate(scales[:-1])
            if ranked
        ],
        paths=_paths(shown),
        meeting=meeting_line(shown),
        rungs=_rungs_chart(section, train, shown, best),
        arrivals=rung_counts(section, train, shown),
        head=["trial", *section.parameters, "status", section.metric]
        + [f"L {ability}" for ability in abilities]
        + [f"σ {ability}" for ability in abilities]
        + ["steps", "seconds"],
        rows=[_row(section, trial, abilities) for trial in shown],
        errors=[(trial.number, trial.status, trial.error) for trial in shown if trial.error],
    )
    write_whole(file, page, errors="replace")


def headline(section: SweepConfig, trials: Sequence[Trial], best: Trial | None) -> str:
    """Result of a sweep in one sentence."""
    if best is None:
        return f"None of {len(trials):,} trials finished."
    point = ", ".join(f"{key} {short(value)}" for key, value in best.point.items())
    return f"Trial {best.number} is the best: {point}, {METRIC_NAMES[section.metric]} {short(best.metric)}."


def _setting(section: SweepConfig, trials: Sequence[Trial]) -> str:
    how = {"grid": "a grid", "random": "drawn at random", "optuna": "proposed by Optuna (TPE)"}
    asha = "; ASHA stopped the hopeless early" if section.scheduler == "asha" else ""
    return f"{len(trials):,} trials, {how[section.search]}{asha}: {status_counts(trials)}."


def _scale(section: SweepConfig, key: str, trials: Sequence[Trial]) -> Scale:
    parameter = section.parameters[key]
    values = [trial.point[key] for trial in trials]
    if parameter.choice is None:
        return Scale(key, values, log=parameter.log is not None)
    seen = [value for index, value in enumerate(values) if value not in values[:index]]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in seen):
        seen.sort()
    return Scale(key, values, categories=tuple(seen))


def _metric(name: str, trials: Sequence[Trial]) -> Scale:
    values = [_finite(trial.metric) for trial in trials]
    numbers = [value for value in values if value is not None]
    log = bool(numbers) and min(numbers) > 0 and max(numbers) > 5 * min(numbers)
    return Scale(name, values, log=log)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _paint(trial: Trial, best: Trial | None) -> str:
    if best is not None and trial.number == best.number:
        return BEST
    return STOPPED if trial.status == "stopped" else OTHER


def _learned(trials: Sequence[Trial]) -> list[Trial]:
    """Trials in which σ moved, failed and diverged ones excluded."""
    return [
        trial
        for trial in trials
        if trial.status not in ("failed", "diverged")
        and any(
            len({value for _, value in trial.curves[f"sigma_{ability}"]}) > 1
            for ability in trial.sigma
        )
    ]


def _paths(trials: Sequence[Trial]) -> list[tuple[str, "Markup"]]:
    """A chart of σ for each ability that was learned in any trial."""
    drawn: list[tuple[str, Markup]] = []
    learned = _learned(trials)
    for ability, paint in ability_paints(ability_names(learned)).items():
        paths = [trial.curves.get(f"sigma_{ability}", []) for trial in learned]
        rests = [
            [(step, math.sqrt(max(loss, 1e-12))) for step, loss in losses]
            for trial in learned
            if (losses := trial.curves.get(f"L_{ability}"))
        ]
        if rests:
            drawn.append((ability, sigma_paths_chart(ability, paint, paths, rests)))
    return drawn


def meeting_line(trials: Sequence[Trial]) -> str:
    """Sentence on how far σ ended from √L in the finished trials; empty if no σ moved."""
    parts = []
    finished = [trial for trial in _learned(trials) if trial.status == "finished"]
    for ability in ability_names(finished):
        ratios = [
            sigma / math.sqrt(sum(v for _, v in last) / len(last))
            for trial in finished
            if (sigma := trial.sigma.get(ability)) is not None
            and (last := trial.curves[f"L_{ability}"][-5:])
        ]
        if ratios:
            parts.append(f"{ability} {min(ratios):.2f} to {max(ratios):.2f}")
    if not parts:
        return ""
    return (
        "σ at the end over √L of the last five steps, lowest to highest of the finished trials "
        f"(1 is at rest): {'; '.join(parts)}."
    )


def rungs_of(section: SweepConfig, farthest: float) -> list[int]:
    """ASHA's rungs up to where the farthest trial came, on the scale of `budget`."""
    rungs, rung = [], section.asha_grace
    while rung <= farthest:
        rungs.append(rung)
        rung *= section.asha_factor
    return rungs


def _reached(section: SweepConfig, train: TrainConfig, trial: Trial) -> list[float]:
    """Where a trial stood at each of its validations, on the scale of ASHA's rungs."""
    own = applied(train, trial.point)
    return [budget(section, own, number + 1) for number in range(len(trial.validations))]


def rung_counts(section: SweepConfig, train: TrainConfig, trials: Sequence[Trial]) -> list[str]:
    """Number of trials that reached each rung, and that were stopped there."""
    if section.scheduler != "asha":
        return []
    ends = [max(_reached(section, train, trial), default=0) for trial in trials]
    rungs = rungs_of(section, max(ends, default=0))
    lines = []
    for index, rung in enumerate(rungs):
        following = rungs[index + 1] if index + 1 < len(rungs) else math.inf
        arrived = [(trial, end) for trial, end in zip(trials, ends, strict=True) if end >= rung]
        ended = [trial for trial, end in arrived if trial.status == "stopped" and end < following]
        lines.append(f"validation {rung}: {len(arrived)} arrived, {len(ended)} stopped")
    return lines


def _rungs_chart(
    section: SweepConfig, train: TrainConfig, trials: Sequence[Trial], best: Trial | None
) -> "Markup | None":
    runs = [
        Run(
            _paint(trial, best),
            _reached(section, train, trial),
            trial.best_so_far,
            stopped=trial.status == "stopped",
        )
        for trial in trials
        if trial.validations
    ]
    if section.scheduler != "asha" or not runs:
        return None
    return rungs_chart(runs, rungs_of(section, max(run.reached[-1] for run in runs)))


def _row(section: SweepConfig, trial: Trial, abilities: Sequence[str]) -> list[str]:
    return [
        str(trial.number),
        *(short(trial.point[key]) for key in section.parameters),
        trial.status,
        short(trial.metric),
        *(short(trial.loss.get(ability)) for ability in abilities),
        *(short(trial.sigma.get(ability)) for ability in abilities),
        f"{trial.step:,}/{trial.steps or 0:,}",
        f"{trial.seconds:,.0f}",
    ]
