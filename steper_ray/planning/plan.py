"""What a build will take, before it is run: questions an hour, tokens by ability, GPU-hours, size on disk.

A sample of the questions that nobody has asked yet, drawn by a hash of their ids, is asked by the builder
itself into the run's chains: the build that follows asks only the rest. What such questions take and bring
predicts the rest (`steper_ray.planning.forecast`); how the engines ran on them, the pace
(`steper_ray.planning.throughput`).

`plan.json` keeps the measurement, of each teacher with the settings it was made with. While those are the
same, planning again asks nothing and counts what is there by then; other selection settings cost no
teacher either.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from steper_ray.chains.build import prepare_chains
from steper_ray.chains.rows import chain_files
from steper_ray.chains.teachers import Reasoner, find_teachers
from steper_ray.chains.usage import Progress
from steper_ray.data.questions import load_questions
from steper_ray.errors import InputError
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import (
    ALL,
    Plan,
    TeacherJob,
    TeacherPlan,
    file_costs,
    forecast_data,
    forecast_teacher,
    measure_density,
)
from steper_ray.planning.sample import (
    Measurement,
    measure,
    missing_for,
    usage_from_json,
    write_plan,
)
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.run.lock import locked
from steper_ray.selection.dataset import score_chains

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig
    from steper_ray.schema import Question


MAX_REWRITTEN_FILES: Final = 64
"""Files of chains that are written again to see how large they, and the examples in them, become."""


def plan(config: "RunConfig", on_progress: Progress | None = None) -> Plan:
    """Ask a sample, if none is there, and predict the build; writes `plan.json`.

    Needs a running Ray and an indexed corpus. Raises InputError as a build does, without questions, and for
    `build.fresh`, which would throw the sample away.
    """
    if config.build.fresh:
        raise InputError(
            "build.fresh: the build that follows would throw away the chains that were made for the plan; "
            "leave it out, or take another run.dir to begin anew"
        )
    reasoners = find_teachers(config)
    questions = load_questions(config.questions, "train", config.folder.inputs)[
        : config.build.limit
    ]
    if not questions:
        raise InputError("questions.train: no questions, so there is nothing to plan")
    with locked(config.folder.chains):
        prepare_chains(config, reasoners)
        score_chains(config)
        measured, asked = measure(config, reasoners, questions, on_progress)
        found = _predict(config, reasoners, questions, measured, asked)
        write_plan(config.folder.plan, measured, found)
    return found


def _predict(
    config: "RunConfig",
    reasoners: Sequence[Reasoner],
    questions: Sequence["Question"],
    measured: Mapping[str, Measurement],
    asked: int,
) -> Plan:
    """The plan, from the chains that are there."""
    files = chain_files(config.folder.chains)
    select, teachers = config.select, config.build.teachers
    reasoning = complete_reasoning(config.reasoning)
    look = partial(file_costs, select=select, reasoning=reasoning, teachers=teachers)
    parts = dict(zip(files, parallel_map(look, files), strict=True))
    looked = [one for part in parts.values() for one in part]
    notes: list[str] = []
    jobs = []
    for reasoner in reasoners:
        wanted = missing_for(config, reasoner, questions, again=True)
        one = measured[reasoner.name]
        if not one.sample and len(reasoners) == 1:
            one = _last_build(config, one)
            if one.runs:
                notes.append("nothing was left to be measured: the pace is that of the last build")
        unasked = frozenset((each.question.id, each.sample) for each in wanted)
        jobs.append(TeacherJob(reasoner, unasked, one.sample, one.ran, one.runs))
    left = frozenset(question for job in jobs for question, _ in job.left)
    sample = sorted({question for job in jobs for question in job.sample})
    takes = [forecast_teacher(job, looked, len(questions)) for job in jobs]
    notes += [note for take in takes if (note := _note(take))]

    drawn = set(sample)
    fresh = [file for file, part in parts.items() if any(o.question_id in drawn for o in part)]
    some = {file: parts[file] for file in (fresh or files)[:MAX_REWRITTEN_FILES]}
    per_text, per_spelled = measure_density(some, select, reasoning)
    asked_of, names = {question.id for question in questions}, {r.name for r in reasoners}
    others = [one for one in looked if one.question_id not in asked_of or one.teacher not in names]
    foreign = sum(one.teacher not in names for one in looked)
    text = sum(one.counts["text", ALL] for one in looked)
    coming = _sum([take.text_left for take in takes])
    chains = _sum([take.chains for take in takes])
    return Plan(
        questions=len(questions),
        there=len(questions) - len(left),
        left=len(left),
        sample=len(sample),
        asked=asked,
        others=len(others),
        teachers=tuple(takes),
        hours_left=_sum([take.hours_left for take in takes]),
        hours_all=_sum([take.hours_all for take in takes]),
        chains=chains and chains + Estimate(foreign, 0.0),
        chains_bytes=coming and (coming + Estimate(text, 0.0)).times(per_text),
        data=forecast_data(looked, left, sample, select, per_spelled),
        notes=tuple(notes),
    )


def _last_build(config: "RunConfig", unknown: Measurement) -> Measurement:
    """What `stats.json` says of how the engines ran; `unknown` where it does not."""
    if not config.folder.stats.is_file():
        return unknown
    told = json.loads(config.folder.stats.read_text(encoding="utf-8")).get("build") or {}
    ran = usage_from_json(told)
    return Measurement(unknown.identity, (), ran, 1) if ran.asked else unknown


def _note(take: TeacherPlan) -> str | None:
    """What a reader of a teacher's numbers must know."""
    whose = f"{take.name}: " if take.name else ""
    if take.pace is None:
        return f"{whose}everything is there, and nothing says how fast it was made; no hours"
    if take.pace.too_slow:
        return (
            f"{whose}the pace is that of a whole short run with its warming up and running empty; "
            "a long one is faster, which a larger --sample shows"
        )
    return None


def _sum(parts: Sequence[Estimate | None]) -> Estimate | None:
    """All together; None where one is not known."""
    whole = Estimate(0.0, 0.0)
    for part in parts:
        if part is None:
            return None
        whole += part
    return whole
