"""The attempts that a question gets, their ids, and which of them are missing.

q1                  the first attempt of `build.teacher`
q1#2                its second sample
q1@qwen#2           the second sample of the ensemble's `qwen`
q1@qwen#2:corrected the corrected attempt that followed from it
q1:rationalized     the attempt with the gold answer shown
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from steper_ray.chains.teachers import Reasoner
from steper_ray.schema import Chain, Question
from steper_ray.tasks import task_named

Kind = Literal["first", "corrected", "rationalized"]


KINDS: Final[tuple[Kind, ...]] = ("first", "corrected", "rationalized")


def chain_id(reasoner: Reasoner, question_id: str, sample: int = 1, kind: Kind = "first") -> str:
    """The id of a chain of a reasoner."""
    by = f"@{reasoner.name}" if reasoner.name else ""
    number = f"#{sample}" if sample > 1 else ""
    return f"{question_id}{by}{number}" + ("" if kind == "first" else f":{kind}")


def next_kind(reasoner: Reasoner, sample: int, known: Mapping[Kind, bool | None]) -> Kind | None:
    """The attempt to make next for a sample; None if none is missing.

    known: whether each existing attempt is right; None for one that carries an error
    """
    if "first" not in known:
        return "first"
    if reasoner.self_correction and known["first"] is False and "corrected" not in known:
        return "corrected"
    if reasoner.rationalization and sample == 1 and "rationalized" not in known:
        return "rationalized" if all(right is False for right in known.values()) else None
    return None


@dataclass(frozen=True, slots=True)
class MissingAttempts:
    """A question whose chains of one sample are to be made, or completed."""

    question: Question
    sample: int = 1
    earlier: tuple[Chain, ...] = ()
    """Those there are without an error."""


def missing_attempts(
    reasoner: Reasoner,
    questions: Sequence[Question],
    known: Mapping[str, Mapping[str, float] | None],
    read: Callable[[Sequence[str]], Iterable[Chain]],
    *,
    again: bool = True,
) -> list[MissingAttempts]:
    """What is left to be asked, in the order of the questions.

    known: id of each existing chain → its scores, None where it carries an error
    read:  chains by their ids
    again: whether those with an error are asked for again
    """
    wanted: list[tuple[Question, int, list[str]]] = []
    for question in questions:
        for sample in range(1, reasoner.samples + 1):
            ids = {kind: chain_id(reasoner, question.id, sample, kind) for kind in KINDS}
            there = {
                kind: _is_right(reasoner, known[chain_id])
                for kind, chain_id in ids.items()
                if chain_id in known and not (again and known[chain_id] is None)
            }
            if next_kind(reasoner, sample, there) is not None:
                sound = [ids[kind] for kind, right in there.items() if right is not None]
                wanted.append((question, sample, sound))
    chains = {chain.id: chain for chain in read([i for _, _, ids in wanted for i in ids])}
    return [
        MissingAttempts(question, sample, tuple(chains[chain_id] for chain_id in ids))
        for question, sample, ids in wanted
    ]


def next_id(wanted: MissingAttempts, reasoner: Reasoner) -> str:
    """The id of the first chain that `ask` will make."""
    kind = missing_kind(
        reasoner, wanted.sample, {kind_of(chain): chain for chain in wanted.earlier}
    )
    assert kind is not None, "what is wanted is not there"
    return chain_id(reasoner, wanted.question.id, wanted.sample, kind)


def missing_kind(reasoner: Reasoner, sample: int, there: Mapping[Kind, Chain]) -> Kind | None:
    known = {
        kind: _is_right(reasoner, None if chain.error is not None else chain.scores)
        for kind, chain in there.items()
    }
    return next_kind(reasoner, sample, known)


def _is_right(reasoner: Reasoner, scores: Mapping[str, float] | None) -> bool | None:
    return None if scores is None else task_named(reasoner.task).is_right(scores)


def kind_of(chain: Chain) -> Kind:
    """Which of a sample's chains this is."""
    if chain.rationalized:
        return "rationalized"
    return "corrected" if chain.attempt == 2 else "first"
