"""Which chains are taken of those that pass: one of each question, and no hop count too often.

Chains of the same question come from several teachers, samples or attempts. Pure functions; nothing depends
on the order of the chains.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.schema import Chain
from steper_ray.selection.rejection import rejection, worst_logprob
from steper_ray.selection.settings import SelectConfig
from steper_ray.tasks import qa
from steper_ray.tasks.protocol import Task
from steper_ray.tasks.qa import normalize


@dataclass(frozen=True, slots=True)
class Judgement:
    """A chain's verdict, and what choosing needs to know."""

    id: str
    question_id: str
    hops: int | None
    reason: str | None
    """Looked at alone; None is kept."""
    before: str | None
    """The verdict that the chain carries so far."""
    order: tuple[int, ...] = ()
    """Place among the question's chains, see `SelectConfig.choose`."""
    answer: str | None = None
    """The answer it votes for; None where it does not vote (an error, or the answer was shown)."""
    confidence: float = 0.0
    """Mean token log-probability of its worst step, in nats; the lowest number where it is unknown."""
    said: bytes = b""
    """Digest of its steps' texts."""


RIGHT: Final = "="
"""What a chain with a gold answer votes for, whichever alias it gives; no answer is normalised to it."""


def judge(
    chain: Chain,
    config: SelectConfig,
    framework: Framework,
    teachers: Sequence[str] = ("",),
    task: Task = qa,
) -> Judgement:
    """The verdict on a chain, looked at alone.

    framework: that the chains were written with
    teachers:  their names, in the order of asking; one that is not among them comes last
    """
    place = teachers.index(chain.teacher) if chain.teacher in teachers else len(teachers)
    confidence = worst_logprob(chain)
    votes = chain.error is None and not chain.rationalized
    said = "\n\n".join(normalize(step.rationale) for step in chain.steps)
    return Judgement(
        id=chain.id,
        question_id=chain.question_id,
        hops=chain.hops,
        reason=rejection(chain, config, framework, task),
        before=chain.rejected,
        order=(chain.rationalized, chain.attempt, place, chain.sample),
        answer=(RIGHT if task.is_right(chain.scores) else normalize(chain.answer))
        if votes
        else None,
        confidence=-float("inf") if confidence is None else confidence,
        said=hashlib.sha256(said.encode()).digest(),
    )


def select(
    chains: Iterable[Chain],
    config: SelectConfig,
    framework: Framework,
    teachers: Sequence[str] = ("",),
) -> dict[str, str | None]:
    """Chain id → the reason code why it is left out, None if it is kept; for the others see `judge`."""
    return choose([judge(chain, config, framework, teachers) for chain in chains], config)


def choose(judged: Sequence[Judgement], config: SelectConfig) -> dict[str, str | None]:
    """Chain id → the reason code why it is left out, None if it is kept; no id may come twice."""
    verdicts = {row.id: row.reason for row in judged}
    assert len(verdicts) == len(judged), "every chain has an id of its own"
    questions: dict[str, list[Judgement]] = defaultdict(list)
    for row in judged:
        questions[row.question_id].append(row)
    for rows in questions.values():
        verdicts |= _choose_one([row for row in rows if row.reason is None], rows, config.choose)
    kept = {row.id: row.hops for row in judged if verdicts[row.id] is None}
    return verdicts | dict.fromkeys(surplus_chains(kept, config), "surplus")


def _choose_one(
    passing: Sequence[Judgement], rows: Sequence[Judgement], how: str
) -> Mapping[str, str | None]:
    """Chain id → reason, of those of one question that pass and are left out all the same.

    rows: all chains of the question
    """
    ordered = sorted(passing, key=lambda row: (row.order, row.id))
    out: dict[str, str | None] = {}
    if how == "majority":
        winner = _winner(rows)
        given = {row.id: RIGHT if row.answer is None else row.answer for row in ordered}
        out = {i: "outvoted" for i, answer in given.items() if winner not in (None, answer)}
        ordered = [row for row in ordered if row.id not in out]
    if how == "all":
        said: set[bytes] = set()
        for row in ordered:
            if row.said in said:
                out[row.id] = "duplicate"
            said.add(row.said)
        return out
    if how != "first":
        ordered.sort(key=lambda row: -row.confidence)
    return out | dict.fromkeys((row.id for row in ordered[1:]), "not_chosen")


def _winner(rows: Sequence[Judgement]) -> str | None:
    """The answer with the most votes, of equals the one given first; None without votes."""
    ordered = sorted(rows, key=lambda row: (row.order, row.id))
    votes = Counter(row.answer for row in ordered if row.answer is not None)
    return max(votes, key=votes.__getitem__, default=None)


def surplus_chains(kept: Mapping[str, int | None], config: SelectConfig) -> set[str]:
    """Ids of the chains to leave out so that no hop count has more than its share.

    Which of a hop count stay is drawn by a hash of their ids: not the first ones, but always the same, and
    those of a smaller share are among those of a larger one.

    kept: chain id → hops
    """
    if config.per_hops is None:
        return set()
    groups: dict[int | None, list[str]] = defaultdict(list)
    for chain_id, hops in kept.items():
        groups[hops].append(chain_id)
    rarest = min(map(len, groups.values()), default=0)
    share = rarest if config.per_hops == "equal" else config.per_hops
    return {chain_id for ids in groups.values() for chain_id in sorted(ids, key=_draw)[share:]}


def _draw(chain_id: str) -> tuple[str, str]:
    return hashlib.sha256(chain_id.encode()).hexdigest(), chain_id
