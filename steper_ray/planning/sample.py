"""The sample of questions that a plan asks, and the measurement that `plan.json` keeps of it."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray import __version__
from steper_ray.chains.attempts import MissingAttempts, chain_id, missing_attempts
from steper_ray.chains.build import ask_all
from steper_ray.chains.rows import read_chains
from steper_ray.chains.store import existing_chains
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage, Progress
from steper_ray.errors import InputError
from steper_ray.files import write_whole
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import Plan
from steper_ray.retrieval import corpus_version
from steper_ray.run.dependencies import ATTEMPT_KEYS, measurement_identity
from steper_ray.run.identity import FORMAT, Record, check_format, differences

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig
    from steper_ray.schema import Question


MIN_SAMPLE: Final = 64
"""Questions of a sample, where as many are left."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """How a teacher's engines ran on a sample."""

    identity: Record
    """What the numbers hold for."""
    sample: tuple[str, ...]
    """Ids of the questions."""
    ran: EngineUsage
    runs: int
    """Calls that it took, each with a start, a warming up and a running empty of its own."""


def draw(questions: Iterable["Question"], count: int) -> list["Question"]:
    """So many of the questions by a hash of their ids: not the first ones, but always the same."""

    def place(question: "Question") -> tuple[str, str]:
        return hashlib.sha256(question.id.encode()).hexdigest(), question.id

    return sorted(questions, key=place)[:count]


def sample_size(reasoner: Reasoner) -> int:
    """Questions that fill the engines twice, so that some wait while others are at work."""
    twice = 2 * reasoner.at_once * reasoner.engine.replicas
    return max(MIN_SAMPLE, -(-twice // reasoner.samples))


def measure(
    config: "RunConfig",
    reasoners: Sequence[Reasoner],
    questions: Sequence["Question"],
    on_progress: Progress | None,
) -> tuple[dict[str, Measurement], int]:
    """What is measured of each teacher after asking what is missing, and how many questions that took."""
    version = corpus_version(config.folder.corpus)
    ids = hashlib.sha256("\n".join(question.id for question in questions).encode()).hexdigest()
    measured = _read(config.folder.plan)
    asked: set[str] = set()
    for reasoner in reasoners:
        identity = _identity(reasoner, version, ids)
        there = existing_chains(config.folder.chains)
        before = measured.get(reasoner.name)
        if (
            before is None
            or differences(before.identity, identity)
            or not _is_there(before, reasoner, there)
        ):
            before = Measurement(identity, (), EngineUsage(), 0)
        unasked = {
            one.question.id: one.question for one in missing_for(config, reasoner, questions)
        }
        size = config.build.plan_sample or sample_size(reasoner)
        drawn = draw(unasked.values(), max(0, size - len(before.sample)))
        if drawn:
            ran = ask_all(config, [reasoner], drawn, on_progress)[reasoner.name]
            sample = (*before.sample, *(question.id for question in drawn))
            before = Measurement(identity, sample, before.ran + ran, before.runs + 1)
            asked.update(question.id for question in drawn)
        measured[reasoner.name] = before
        write_plan(config.folder.plan, measured)
    return {reasoner.name: measured[reasoner.name] for reasoner in reasoners}, len(asked)


def missing_for(
    config: "RunConfig",
    reasoner: Reasoner,
    questions: Sequence["Question"],
    *,
    again: bool = False,
) -> list[MissingAttempts]:
    chains = config.folder.chains
    return missing_attempts(
        reasoner, questions, existing_chains(chains), partial(read_chains, chains), again=again
    )


def _identity(reasoner: Reasoner, version: str, questions: str) -> Record:
    """What a measurement holds for."""
    return measurement_identity(
        version,
        questions,
        reasoner.identity,
        {name: getattr(reasoner, name) for name in ATTEMPT_KEYS},
        reasoner.engine,
        reasoner.endpoint,
    )


def _is_there(measured: Measurement, reasoner: Reasoner, there: Mapping[str, Any]) -> bool:
    """Whether the sample's chains still are."""
    return all(chain_id(reasoner, question) in there for question in measured.sample)


def usage_from_json(values: Mapping[str, Any]) -> EngineUsage:
    """A `Ran` from what JSON has of it."""
    names = {field.name for field in fields(EngineUsage)}
    return EngineUsage(**{name: value for name, value in values.items() if name in names})


def _read(file: Path) -> dict[str, Measurement]:
    """Teacher's name → what was measured; raises InputError for a file that is no plan's."""
    if not file.is_file():
        return {}
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        check_format(values, file)
        written = values["measured"]
        return {
            name: Measurement(
                one["identity"], tuple(one["sample"]), usage_from_json(one["ran"]), one["runs"]
            )
            for name, one in written.items()
        }
    except InputError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{file}: not what `steper plan` writes; take it away") from None


def write_plan(file: Path, measured: Mapping[str, Measurement], found: Plan | None = None) -> None:
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
