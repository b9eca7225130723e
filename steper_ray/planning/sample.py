"""The sample of questions that a plan asks, and the measurement that `plan.json` keeps of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from steper_ray import __version__
from steper_ray.chains.attempts import chain_id
from steper_ray.chains.build import ask_teacher, find_missing
from steper_ray.chains.store import existing_chains
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage, Progress
from steper_ray.errors import InputError
from steper_ray.files import write_whole
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import Plan
from steper_ray.retrieval import corpus_version
from steper_ray.run.dependencies import measurement_identity
from steper_ray.run.identity import FORMAT, Record, check_format, differences
from steper_ray.run.keys import ATTEMPT_KEYS
from steper_ray.run.section import Section
from steper_ray.schema import Question

MIN_SAMPLE: Final = 64
"""Lower bound for the questions of a sample, where as many are unanswered."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """Usage of a teacher's engines on a sample of the questions."""

    identity: Record
    """Record of what the usage depends on."""
    sample: tuple[str, ...]
    """Ids of the questions."""
    usage: EngineUsage
    runs: int
    """Runs that `usage` sums; each started, warmed up and drained the engines."""


def draw(questions: Iterable[Question], count: int) -> list[Question]:
    """So many of the questions, drawn by a hash of their ids: the same in any order."""

    def key(question: Question) -> tuple[str, str]:
        return hashlib.sha256(question.id.encode()).hexdigest(), question.id

    return sorted(questions, key=key)[:count]


def sample_size(reasoner: Reasoner) -> int:
    """Number of questions that fill the engines twice, so that half of them are queued at first."""
    twice = 2 * reasoner.at_once * reasoner.engine.min_replicas
    return max(MIN_SAMPLE, -(-twice // reasoner.samples))


def measure(
    teachers: Sequence[Reasoner],
    questions: Sequence[Question],
    *,
    corpus: Path,
    chains: Path,
    out: Path,
    log: Path,
    sample: int | None = None,
    on_progress: Progress | None = None,
) -> tuple[dict[str, Measurement], int]:
    """Measure each teacher on a sample of its unanswered questions, unless `out` has the measurement.

    chains: the chain store that the sample's chains are merged into
    out:    the file of the plan, which keeps the measurements
    sample: number of questions; None takes `sample_size`
    Returns the measurement of each teacher by name, and the number of questions that were asked for it.
    """
    version = corpus_version(corpus)
    ids = hashlib.sha256("\n".join(question.id for question in questions).encode()).hexdigest()
    measured = _read(out)
    asked: set[str] = set()
    for teacher in teachers:
        identity = _identity(teacher, version, ids)
        measurement = measured.get(teacher.name)
        if (
            measurement is None
            or differences(measurement.identity, identity)
            or not _has_chains(measurement, teacher, existing_chains(chains))
        ):
            measurement = Measurement(identity, (), EngineUsage(), 0)
        unasked = {
            missing.question.id: missing.question
            for missing in find_missing(chains, teacher, questions, retry_errors=False)
        }
        size = sample or sample_size(teacher)
        drawn = draw(unasked.values(), max(0, size - len(measurement.sample)))
        if drawn:
            measurement = Measurement(
                identity,
                (*measurement.sample, *(question.id for question in drawn)),
                measurement.usage + ask_teacher(teacher, drawn, chains, corpus, log, on_progress),
                measurement.runs + 1,
            )
            asked.update(question.id for question in drawn)
        measured[teacher.name] = measurement
        write_plan(out, measured)
    return {teacher.name: measured[teacher.name] for teacher in teachers}, len(asked)


def _identity(reasoner: Reasoner, version: str, questions: str) -> Record:
    """Record of what a measurement depends on."""
    return measurement_identity(
        version,
        questions,
        reasoner.identity,
        {name: getattr(reasoner, name) for name in ATTEMPT_KEYS},
        reasoner.engine,
        reasoner.endpoint,
    )


def _has_chains(measured: Measurement, reasoner: Reasoner, existing: Mapping[str, Any]) -> bool:
    """Whether all chains of the sample still exist."""
    return all(chain_id(reasoner, question) in existing for question in measured.sample)


def usage_from_json(values: Mapping[str, Any]) -> EngineUsage:
    """EngineUsage from a JSON object that has its fields among others."""
    names = {field.name for field in fields(EngineUsage)}
    return EngineUsage(**{name: value for name, value in values.items() if name in names})


def _read(file: Path) -> dict[str, Measurement]:
    """Teacher's name → measurement, from `plan.json`; raises InputError for any other file."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        check_format(values, file)
        return {
            name: Measurement(
                entry["identity"],
                tuple(entry["sample"]),
                usage_from_json(entry["usage"]),
                entry["runs"],
            )
            for name, entry in values["measured"].items()
        }
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: not what `steper plan` writes; delete it") from None


def write_plan(file: Path, measured: Mapping[str, Measurement], plan: Plan | None = None) -> None:
    """Write `plan.json`: the measurements, and the plan once it is predicted."""
    head = {"format": FORMAT, "steper_ray": __version__}
    whole = {**head, "plan": plan and _plain(plan), "measured": _plain(measured)}
    write_whole(file, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def write_computed(file: Path, computed: object) -> None:
    """Write a plan that was computed into `plan.json`, beside what was measured and predicted before.

    Raises InputError for a file that `steper plan` did not write.
    """
    _read(file)
    whole: dict[str, Any] = {
        "format": FORMAT,
        "steper_ray": __version__,
        "plan": None,
        "measured": {},
    }
    if file.is_file():
        whole = json.loads(file.read_text(encoding="utf-8"))
    whole["computed"] = _plain(computed)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def _plain(value: Any) -> Any:
    """The value as plain JSON values; an estimate with the ends of its interval."""
    if isinstance(value, Estimate):
        low, high = value.interval
        return {"value": value.value, "low": low, "high": high}
    if isinstance(value, Section):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value
