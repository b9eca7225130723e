"""Prediction of a build before it runs: questions an hour, tokens by ability, GPU-hours, size on disk.

A sample of the unanswered questions, drawn by a hash of their ids, is answered into the run's own chains,
so that the build only answers the remaining ones. The tokens and examples of the sample predict those of
the remaining questions (`steper_ray.planning.forecast`); the engines' usage predicts the throughput
(`steper_ray.planning.throughput`).

`plan.json` keeps the measurement of each teacher with the settings that it depends on. While those are the
same, planning again asks nothing and counts the chains that exist by then; other selection settings cost no
teacher either.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from steper_ray.chains.attempts import check_ids
from steper_ray.chains.build import find_missing, prepare_chains
from steper_ray.chains.rows import chain_files
from steper_ray.chains.scoring import score_chains
from steper_ray.chains.settings import BuildConfig
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import Progress
from steper_ray.errors import InputError
from steper_ray.planning.costs import ALL, ChainCosts, file_costs, measure_density
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import (
    Plan,
    TeacherJob,
    TeacherPlan,
    forecast_data,
    forecast_teacher,
)
from steper_ray.planning.sample import Measurement, measure, usage_from_json, write_plan
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.lock import locked
from steper_ray.schema import Question
from steper_ray.selection.abilities import ability_scheme
from steper_ray.selection.settings import SelectConfig

MAX_REWRITTEN_FILES: Final = 64
"""Upper bound for the files of chains that are rewritten to measure sizes on disk."""


def check_plan(settings: BuildConfig) -> None:
    """Raises InputError for `build.fresh`, with which the build would delete the sample's chains."""
    if settings.fresh:
        raise InputError(
            "build.fresh: the build that follows would throw away the chains that were made for the plan; "
            "leave it out, or take another run.dir to begin anew"
        )


def plan_build(
    settings: BuildConfig,
    *,
    select: SelectConfig,
    reasoning: ReasoningConfig,
    teachers: Sequence[Reasoner],
    questions: Sequence[Question],
    corpus: Path,
    chains: Path,
    out: Path,
    stats: Path,
    log: Path,
    on_progress: Progress | None = None,
) -> Plan:
    """Have the teachers answer a sample, unless one was measured before, and predict the build.

    Needs a running Ray and an indexed corpus.

    reasoning: how the student will be asked
    chains:    the chain store that the build will fill
    out:       the file of the plan, `plan.json`
    stats:     statistics of an earlier build, if there was one
    Raises InputError as a build does, without questions, and for `build.fresh`.
    """
    check_plan(settings)
    if not questions:
        raise InputError("questions.train: no questions, so there is nothing to plan")
    check_ids(teachers, questions)
    with locked(chains):
        prepare_chains(settings, teachers=teachers, corpus=corpus, out=chains)
        score_chains(chains, teachers[0].reasoning.framework, teachers[0].task)
        measured, asked = measure(
            teachers,
            questions,
            corpus=corpus,
            chains=chains,
            out=out,
            log=log,
            sample=settings.plan_sample,
            on_progress=on_progress,
        )
        jobs, notes = _jobs(teachers, questions, measured, chains, stats)
        costs = _read_costs(chains, select, complete_reasoning(reasoning), settings.teachers)
        plan = _predict(jobs, costs, questions, select, complete_reasoning(reasoning), asked, notes)
        write_plan(out, measured, plan)
    return plan


def _jobs(
    teachers: Sequence[Reasoner],
    questions: Sequence[Question],
    measured: Mapping[str, Measurement],
    chains: Path,
    stats: Path,
) -> tuple[list[TeacherJob], list[str]]:
    """What each teacher has been asked and is yet to be asked; notes on where the throughput is from."""
    jobs, notes = [], []
    for teacher in teachers:
        measurement = measured[teacher.name]
        if not measurement.sample and len(teachers) == 1:
            measurement = _last_build(stats, measurement)
            if measurement.runs:
                notes.append(
                    "no question remained to measure: the throughput is that of the last build"
                )
        missing = find_missing(chains, teacher, questions)
        unasked = frozenset((sample.question.id, sample.sample) for sample in missing)
        jobs.append(
            TeacherJob(teacher, unasked, measurement.sample, measurement.usage, measurement.runs)
        )
    return jobs, notes


def _read_costs(
    chains: Path,
    select: SelectConfig,
    reasoning: ReasoningConfig,
    teachers: Sequence[str],
) -> dict[Path, list[ChainCosts]]:
    """The costs of every chain of a store, by file."""
    files = chain_files(chains)
    read = partial(file_costs, select=select, reasoning=reasoning, teachers=teachers)
    return dict(zip(files, parallel_map(read, files), strict=True))


def _predict(
    jobs: Sequence[TeacherJob],
    parts: Mapping[Path, Sequence[ChainCosts]],
    questions: Sequence[Question],
    select: SelectConfig,
    reasoning: ReasoningConfig,
    asked: int,
    notes: Sequence[str],
) -> Plan:
    """The plan, from the costs of the existing chains."""
    scheme = ability_scheme(select.abilities)
    costs = [chain for part in parts.values() for chain in part]
    remaining = frozenset(question for job in jobs for question, _ in job.unasked)
    sample = sorted({question for job in jobs for question in job.sample})
    teachers = [forecast_teacher(job, costs, len(questions), scheme) for job in jobs]

    # The sample's chains are in the newest files: sizes on disk are measured on those.
    drawn = set(sample)
    files = [file for file, part in parts.items() if any(c.question_id in drawn for c in part)]
    some = {file: parts[file] for file in (files or list(parts))[:MAX_REWRITTEN_FILES]}
    per_text, per_spelled = measure_density(some, select, reasoning)
    planned, names = {question.id for question in questions}, {job.reasoner.name for job in jobs}
    others = sum(c.question_id not in planned or c.teacher not in names for c in costs)
    foreign = sum(chain.teacher not in names for chain in costs)
    text = sum(chain.counts["text", ALL] for chain in costs)
    text_to_come = _sum([teacher.text_remaining for teacher in teachers])
    chains = _sum([teacher.chains for teacher in teachers])
    return Plan(
        questions=len(questions),
        finished=len(questions) - len(remaining),
        remaining=len(remaining),
        sample=len(sample),
        asked=asked,
        others=others,
        teachers=tuple(teachers),
        hours_remaining=_sum([teacher.hours_remaining for teacher in teachers]),
        hours_all=_sum([teacher.hours_all for teacher in teachers]),
        chains=chains and chains + Estimate(foreign, 0.0),
        chains_bytes=text_to_come and (text_to_come + Estimate(text, 0.0)).times(per_text),
        data=forecast_data(costs, remaining, sample, select, per_spelled),
        notes=(*notes, *(note for teacher in teachers if (note := _note(teacher)))),
    )


def _last_build(stats: Path, unknown: Measurement) -> Measurement:
    """The engines' usage in the last build, from `stats.json`; `unknown` if it has none."""
    if not stats.is_file():
        return unknown
    recorded = json.loads(stats.read_text(encoding="utf-8")).get("build") or {}
    usage = usage_from_json(recorded)
    return Measurement(unknown.identity, (), usage, 1) if usage.asked else unknown


def _note(teacher: TeacherPlan) -> str | None:
    """Caveat that belongs to a teacher's numbers, if any."""
    whose = f"{teacher.name}: " if teacher.name else ""
    if teacher.pace is None:
        return f"{whose}every chain exists, and nothing says how fast they were made; no hours"
    if teacher.pace.includes_idle:
        return (
            f"{whose}the throughput is that of a whole short run with its warming up and draining; "
            "a long run is faster; measure it with a larger --sample"
        )
    return None


def _sum(parts: Sequence[Estimate | None]) -> Estimate | None:
    """Sum of estimates; None if any of them is None."""
    whole = Estimate(0.0, 0.0)
    for part in parts:
        if part is None:
            return None
        whole += part
    return whole
