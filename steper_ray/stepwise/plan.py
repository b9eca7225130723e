"""What a build will take, before it is run: questions an hour, tokens by ability, GPU-hours, size on disk.

A sample of the questions that nobody has asked yet, drawn by a hash of their ids, is asked by the builder
itself into the run's chains: the build that follows asks only the rest. What such questions take and bring
predicts the rest (`steper_ray.stepwise.forecast`); how the engines ran on them, the pace
(`steper_ray.stepwise.pace`).

`plan.json` keeps the measurement, of each teacher with the settings it was made with. While those are the
same, planning again asks nothing and counts what is there by then; other selection settings cost no
teacher either.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray import __version__
from steper_ray.errors import InputError
from steper_ray.files import write_whole
from steper_ray.questions import load_questions
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.retrieval import Retriever
from steper_ray.run.identity import (
    ATTEMPT_KEYS,
    FORMAT,
    Record,
    check_format,
    differences,
    measurement_identity,
)
from steper_ray.stepwise.asking import Respondent, Wanted, chain_id, find_wanted
from steper_ray.stepwise.build import ask_all, find_respondents, prepare_chains
from steper_ray.stepwise.chains import Progress, Ran, read_chains
from steper_ray.stepwise.dataset import score_chains, spread
from steper_ray.stepwise.estimate import Estimate
from steper_ray.stepwise.forecast import (
    ALL,
    DataPlan,
    TeacherJob,
    TeacherPlan,
    forecast_data,
    forecast_teacher,
    look_at,
    measure_density,
)
from steper_ray.stepwise.store import known, locked
from steper_ray.stepwise.verdicts import chain_files

if TYPE_CHECKING:
    from steper_ray.config import RunConfig
    from steper_ray.schema import Question

LEAST_SAMPLE: Final = 64
"""Questions of a sample, where as many are left."""
MOST_WRITTEN: Final = 64
"""Files of chains that are written again to see how large they, and the examples in them, become."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How a teacher's engines ran on a sample."""

    identity: Record
    """What the numbers hold for."""
    sample: tuple[str, ...]
    """Ids of the questions."""
    ran: Ran
    runs: int
    """Calls that it took, each with a start, a warming up and a running empty of its own."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the whole job will take and bring: chains that are there and those that are left."""

    questions: int
    there: int
    """Questions that need not be asked any more."""
    left: int
    sample: int
    """Questions that those are predicted from."""
    asked: int
    """Questions that were asked for this plan, just now."""
    others: int
    """Chains that are there of other questions (of a larger `build.limit` before) or other teachers."""
    teachers: tuple[TeacherPlan, ...]
    hours_left: Estimate | None
    hours_all: Estimate | None
    """Of all teachers, one after the other."""
    chains: Estimate | None
    chains_bytes: Estimate | None
    data: DataPlan
    notes: tuple[str, ...]


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
    respondents = find_respondents(config)
    questions = load_questions(config, "train")[: config.build.limit]
    if not questions:
        raise InputError("questions.train: no questions, so there is nothing to plan")
    with locked(config.chains_dir):
        prepare_chains(config, respondents)
        score_chains(config)
        measured, asked = _measure(config, respondents, questions, on_progress)
        found = _predict(config, respondents, questions, measured, asked)
        _write(config.plan_file, measured, found)
    return found


def draw(questions: Iterable["Question"], count: int) -> list["Question"]:
    """So many of the questions by a hash of their ids: not the first ones, but always the same."""

    def place(question: "Question") -> tuple[str, str]:
        return hashlib.sha256(question.id.encode()).hexdigest(), question.id

    return sorted(questions, key=place)[:count]


def sample_size(respondent: Respondent) -> int:
    """Questions that fill the engines twice, so that some wait while others are at work."""
    twice = 2 * respondent.at_once * respondent.engine.actors
    return max(LEAST_SAMPLE, -(-twice // respondent.samples))


def _measure(
    config: "RunConfig",
    respondents: Sequence[Respondent],
    questions: Sequence["Question"],
    on_progress: Progress | None,
) -> tuple[dict[str, Measured], int]:
    """What is measured of each teacher after asking what is missing, and how many questions that took."""
    version = Retriever(config.corpus_dir).corpus_version
    ids = hashlib.sha256("\n".join(question.id for question in questions).encode()).hexdigest()
    measured = _read(config.plan_file)
    asked: set[str] = set()
    for respondent in respondents:
        identity = _identity(respondent, version, ids)
        there = known(config.chains_dir)
        before = measured.get(respondent.name)
        if (
            before is None
            or differences(before.identity, identity)
            or not _is_there(before, respondent, there)
        ):
            before = Measured(identity, (), Ran(), 0)
        unasked = {one.question.id: one.question for one in _wanted(config, respondent, questions)}
        size = config.build.plan_sample or sample_size(respondent)
        drawn = draw(unasked.values(), max(0, size - len(before.sample)))
        if drawn:
            ran = ask_all(config, [respondent], drawn, on_progress)[respondent.name]
            sample = (*before.sample, *(question.id for question in drawn))
            before = Measured(identity, sample, before.ran + ran, before.runs + 1)
            asked.update(question.id for question in drawn)
        measured[respondent.name] = before
        _write(config.plan_file, measured)
    return {respondent.name: measured[respondent.name] for respondent in respondents}, len(asked)


def _wanted(
    config: "RunConfig",
    respondent: Respondent,
    questions: Sequence["Question"],
    *,
    again: bool = False,
) -> list[Wanted]:
    chains = config.chains_dir
    return find_wanted(
        respondent, questions, known(chains), partial(read_chains, chains), again=again
    )


def _identity(respondent: Respondent, version: str, questions: str) -> Record:
    """What a measurement holds for."""
    return measurement_identity(
        version,
        questions,
        respondent.identity,
        {name: getattr(respondent, name) for name in ATTEMPT_KEYS},
        respondent.engine,
        respondent.endpoint,
    )


def _is_there(measured: Measured, respondent: Respondent, there: Mapping[str, Any]) -> bool:
    """Whether the sample's chains still are."""
    return all(chain_id(respondent, question) in there for question in measured.sample)


def _predict(
    config: "RunConfig",
    respondents: Sequence[Respondent],
    questions: Sequence["Question"],
    measured: Mapping[str, Measured],
    asked: int,
) -> Plan:
    """The plan, from the chains that are there."""
    files = chain_files(config.chains_dir)
    select, teachers = config.select, config.build.teachers
    reasoning = complete_reasoning(config.reasoning)
    look = partial(look_at, select=select, reasoning=reasoning, teachers=teachers)
    parts = dict(zip(files, spread(look, files), strict=True))
    looked = [one for part in parts.values() for one in part]
    notes: list[str] = []
    jobs = []
    for respondent in respondents:
        wanted = _wanted(config, respondent, questions, again=True)
        one = measured[respondent.name]
        if not one.sample and len(respondents) == 1:
            one = _last_build(config, one)
            if one.runs:
                notes.append("nothing was left to be measured: the pace is that of the last build")
        unasked = frozenset((each.question.id, each.sample) for each in wanted)
        jobs.append(TeacherJob(respondent, unasked, one.sample, one.ran, one.runs))
    left = frozenset(question for job in jobs for question, _ in job.left)
    sample = sorted({question for job in jobs for question in job.sample})
    takes = [forecast_teacher(job, looked, len(questions)) for job in jobs]
    notes += [note for take in takes if (note := _note(take))]

    drawn = set(sample)
    fresh = [file for file, part in parts.items() if any(o.question_id in drawn for o in part)]
    some = {file: parts[file] for file in (fresh or files)[:MOST_WRITTEN]}
    per_text, per_spelled = measure_density(some, select, reasoning)
    asked_of, names = {question.id for question in questions}, {r.name for r in respondents}
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


def _last_build(config: "RunConfig", unknown: Measured) -> Measured:
    """What `stats.json` says of how the engines ran; `unknown` where it does not."""
    if not config.stats_file.is_file():
        return unknown
    told = json.loads(config.stats_file.read_text(encoding="utf-8")).get("build") or {}
    ran = _ran(told)
    return Measured(unknown.identity, (), ran, 1) if ran.asked else unknown


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


def _ran(values: Mapping[str, Any]) -> Ran:
    """A `Ran` from what JSON has of it."""
    names = {field.name for field in fields(Ran)}
    return Ran(**{name: value for name, value in values.items() if name in names})


def _read(file: Path) -> dict[str, Measured]:
    """Teacher's name → what was measured; raises InputError for a file that is no plan's."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        check_format(values, file)
        written = values["measured"]
        return {
            name: Measured(one["identity"], tuple(one["sample"]), _ran(one["ran"]), one["runs"])
            for name, one in written.items()
        }
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: not what `steper plan` writes; take it away") from None


def _write(file: Path, measured: Mapping[str, Measured], found: Plan | None = None) -> None:
    head = {"format": FORMAT, "steper_ray": __version__}
    whole = {**head, "plan": found and _plain(found), "measured": _plain(measured)}
    write_whole(file, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    """Plain JSON values; an estimate with the ends of its interval."""
    if isinstance(value, Estimate):
        low, high = value.interval
        return {"value": value.value, "low": low, "high": high}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value
