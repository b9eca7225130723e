"""The attempts that a question gets, their ids, and which of them are missing.

q1                  the first attempt of `build.teacher`
q1#2                its second sample
q1@qwen#2           the second sample of the ensemble's `qwen`
q1@qwen#2:corrected the corrected attempt that followed from it
q1:rationalized     the attempt with the gold answer shown
q1:step-2           the second step alone, after the first of a chain that was given
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from steper_ray.chains.teachers import Reasoner
from steper_ray.errors import InputError
from steper_ray.schema import Chain, Question

Kind = Literal["first", "corrected", "rationalized"]


MARKS: Final = ("@", "#", ":")
"""Signs with which a chain's id goes on after that of its question."""


KINDS: Final[tuple[Kind, ...]] = ("first", "corrected", "rationalized")


def chain_id(reasoner: Reasoner, question_id: str, sample: int = 1, kind: Kind = "first") -> str:
    """Id of the chain that a reasoner makes of a question by one attempt."""
    by = f"@{reasoner.name}" if reasoner.name else ""
    number = f"#{sample}" if sample > 1 else ""
    return f"{question_id}{by}{number}" + ("" if kind == "first" else f":{kind}")


def check_ids(reasoners: Sequence[Reasoner], questions: Sequence[Question]) -> None:
    """Raises InputError where chains of two questions would have one id: `q#2` is a sample of `q`."""
    if not any(mark in question.id for question in questions for mark in MARKS):
        return
    first: dict[str, str] = {}
    for question in questions:
        for reasoner in reasoners:
            for sample in range(1, reasoner.samples + 1):
                for kind in KINDS:
                    id = chain_id(reasoner, question.id, sample, kind)
                    if first.setdefault(id, question.id) != question.id:
                        raise InputError(
                            f"questions.train: {first[id]!r} and {question.id!r} would both have chains of "
                            f"the id {id!r}; give one of these questions another id"
                        )


def next_kind(reasoner: Reasoner, sample: int, right: Mapping[Kind, bool | None]) -> Kind | None:
    """Kind of the attempt to make next for a sample; None if the sample is complete.

    right: whether each existing attempt is right; None for an attempt that ended with an error
    """
    if "first" not in right:
        return "first"
    if reasoner.self_correction and right["first"] is False and "corrected" not in right:
        return "corrected"
    if reasoner.rationalization and sample == 1 and "rationalized" not in right:
        return "rationalized" if all(known is False for known in right.values()) else None
    return None


@dataclass(frozen=True, slots=True)
class MissingAttempts:
    """A sample of a question with missing attempts: the first, or those that follow from earlier ones.

    Or a single step, after those before it of a chain that is given.
    """

    question: Question
    sample: int = 1
    earlier: tuple[Chain, ...] = ()
    """Existing chains of the sample that carry no error; or the chain that is given."""
    step: int = 0
    """The number of the single step that is missing; 0 for attempts."""


def missing_attempts(
    reasoner: Reasoner,
    questions: Sequence[Question],
    existing: Mapping[str, bool | None],
    read: Callable[[Sequence[str]], Iterable[Chain]],
    *,
    retry_errors: bool = True,
) -> list[MissingAttempts]:
    """Samples whose attempts are missing, in the order of the questions.

    existing:     id of each existing chain → whether it is right, None for a chain that carries an error
    read:         reads chains by their ids
    retry_errors: whether chains that carry an error count as missing
    """
    samples: list[tuple[Question, int, list[str]]] = []
    for question in questions:
        for sample in range(1, reasoner.samples + 1):
            ids = {kind: chain_id(reasoner, question.id, sample, kind) for kind in KINDS}
            right = {
                kind: existing[chain_id]
                for kind, chain_id in ids.items()
                if chain_id in existing and not (retry_errors and existing[chain_id] is None)
            }
            if next_kind(reasoner, sample, right) is not None:
                sound = [ids[kind] for kind, known in right.items() if known is not None]
                samples.append((question, sample, sound))
    chains = {chain.id: chain for chain in read([i for _, _, ids in samples for i in ids])}
    return [
        MissingAttempts(question, sample, tuple(chains[chain_id] for chain_id in ids))
        for question, sample, ids in samples
    ]


def next_id(missing: MissingAttempts, reasoner: Reasoner) -> str:
    """Id of the first chain that `ask` will make of these attempts."""
    if missing.step:
        return f"{missing.question.id}:step-{missing.step}"
    kind = missing_kind(
        reasoner, missing.sample, {kind_of(chain): chain for chain in missing.earlier}
    )
    assert kind is not None, "a sample of which no attempt is missing is not asked"
    return chain_id(reasoner, missing.question.id, missing.sample, kind)


def missing_kind(reasoner: Reasoner, sample: int, chains: Mapping[Kind, Chain]) -> Kind | None:
    """Kind of the attempt to make next, given the sample's existing chains; None if it is complete."""
    right = {
        kind: None if chain.error is not None else chain.right == 1.0
        for kind, chain in chains.items()
    }
    return next_kind(reasoner, sample, right)


def kind_of(chain: Chain) -> Kind:
    """Kind of the attempt that made a chain."""
    if chain.rationalized:
        return "rationalized"
    return "corrected" if chain.attempt == 2 else "first"
