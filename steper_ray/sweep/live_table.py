"""The table of trials on the terminal while a sweep runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.ray_runtime.watch import calling_every
from steper_ray.sweep.settings import SweepConfig
from steper_ray.sweep.trial_files import Trial, ability_names, best_trial, read_trials
from steper_ray.sweep.trial_table import short, status_counts

if TYPE_CHECKING:
    from steper_ray.ray_runtime.progress import StageProgress


MAX_ROWS: Final = 16
"""Trials in the table."""


@contextmanager
def showing_trials(
    folder: Path, section: SweepConfig, total: int, progress: "StageProgress"
) -> Iterator[None]:
    """Table of the trials on the terminal while the block runs.

    folder: of all trials; total: number of trials that the sweep will have
    """
    metric = section.metric
    ended: dict[int, Trial] = {}
    """Trials that have ended; their files change no more, so they are read once."""

    def show() -> None:
        before = len(ended)
        trials = read_trials(folder, metric, ended=ended)
        ended.update({t.number: t for t in trials if t.status != "unfinished"})
        best = best_trial(trials, metric)
        counts = status_counts(trials)
        leader = f"; best {metric} {best.metric:.4f} (trial {best.number})" if best else ""
        progress.table(*live_table(trials, section))
        share = sum(
            1.0 if trial.status != "unfinished" else trial.step / max(1, trial.steps or 1)
            for trial in trials
        )
        detail = f"{len(ended)}/{max(total, len(trials))} trials{f': {counts}' if counts else ''}{leader}"
        progress.update(share, max(total, len(trials)), detail, at_once=len(ended) > before)

    try:
        with calling_every(2.0, show):
            yield
    finally:
        progress.table([], [])


def live_table(trials: Sequence[Trial], section: SweepConfig) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table: running trials first, then the ended ones, best first."""
    keys, abilities = list(section.parameters), ability_names(trials)
    sigmas = [f"σ {ability}" if index == 0 else ability for index, ability in enumerate(abilities)]
    head = ["trial", *keys, "", "step", section.metric, *sigmas]
    sign = 1 if section.metric == "loss" else -1
    shown = sorted(
        trials,
        key=lambda t: (
            t.status != "unfinished",
            t.metric is None,
            sign * (t.metric or 0.0),
            t.number,
        ),
    )[:MAX_ROWS]
    rows = [
        [
            str(trial.number),
            *(short(trial.point[key]) for key in keys),
            "running" if trial.status == "unfinished" else trial.status,
            f"{trial.step}/{trial.steps or '–'}",
            short(trial.metric),
            *(short(trial.sigma.get(ability)) for ability in abilities),
        ]
        for trial in shown
    ]
    return head, rows
