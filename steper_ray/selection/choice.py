"""Choice among chains that pass: one of each question, and no hop count above its share.

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
from steper_ray.selection.rejection import faults, rejection, worst_logprob
from steper_ray.selection.settings import SelectConfig
from steper_ray.tasks.qa import normalize


@dataclass(frozen=True, slots=True)
class Judgement:
    """Verdict on a chain by itself, and the values that the choice among chains depends on."""

    id: str
    question_id: str
    hops: int | None
    reason: str | None
    """Reason code of the chain by itself; None is kept."""
    before: str | None
    """Verdict of an earlier selection."""
    order: tuple[int, ...] = ()
    """Sort key among the question's chains, see `SelectConfig.choose`."""
    answer: str | None = None
    """Answer that the chain votes for; None without a vote (an error, or the gold answer was shown)."""
    confidence: float = 0.0
    """Mean token log-probability of its worst step, in nats; -inf if it is unknown."""
    text_digest: bytes = b""
    """Digest of its steps' normalized rationales."""
    faults: tuple[str, ...] = ()
    """Names and numbers for which it is left out as ungrounded."""


RIGHT: Final = "="
"""Vote of a chain with any of the gold answers; no answer is normalized to this text."""


def judge(
    chain: Chain,
    config: SelectConfig,
    framework: Framework,
    teachers: Sequence[str] = ("",),
) -> Judgement:
    """Judgement of a chain by itself.

    framework: by which the chain was written
    teachers:  names of the teachers in the order of asking; any other teacher comes last
    """
    order = teachers.index(chain.teacher) if chain.teacher in teachers else len(teachers)
    confidence = worst_logprob(chain)
    votes = chain.error is None and not chain.rationalized
    texts = "\n\n".join(normalize(step.rationale) for step in chain.steps)
    reason = rejection(chain, config, framework)
    return Judgement(
        id=chain.id,
        question_id=chain.question_id,
        hops=chain.hops,
        reason=reason,
        before=chain.rejected,
        order=(chain.rationalized, chain.attempt, order, chain.sample),
        answer=_vote(chain) if votes else None,
        confidence=-float("inf") if confidence is None else confidence,
        text_digest=hashlib.sha256(texts.encode()).digest(),
        faults=tuple(dict.fromkeys(faults(chain, config))) if reason == "ungrounded" else (),
    )


def _vote(chain: Chain) -> str:
    """Answer that a chain votes for."""
    return RIGHT if chain.right == 1.0 else normalize(chain.answer)


def select(
    chains: Iterable[Chain],
    config: SelectConfig,
    framework: Framework,
    teachers: Sequence[str] = ("",),
) -> dict[str, str | None]:
    """Chain id → reason code of its rejection, None if it is kept; other parameters as in `judge`."""
    return choose([judge(chain, config, framework, teachers) for chain in chains], config)


def choose(judged: Sequence[Judgement], config: SelectConfig) -> dict[str, str | None]:
    """Chain id → reason code of its rejection, None if it is kept; ids must be unique."""
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
    """Chain id → reason code, of one question's chains that pass by themselves but are not chosen.

    rows: all chains of the question
    """
    ordered = sorted(passing, key=lambda row: (row.order, row.id))
    rejected: dict[str, str | None] = {}
    if how == "majority":
        winner = _winner(rows)
        given = {row.id: RIGHT if row.answer is None else row.answer for row in ordered}
        rejected = {i: "outvoted" for i, answer in given.items() if winner not in (None, answer)}
        ordered = [row for row in ordered if row.id not in rejected]
    if how == "all":
        seen: set[bytes] = set()
        for row in ordered:
            if row.text_digest in seen:
                rejected[row.id] = "duplicate"
            seen.add(row.text_digest)
        return rejected
    if how != "first":
        ordered.sort(key=lambda row: -row.confidence)
    return rejected | dict.fromkeys((row.id for row in ordered[1:]), "not_chosen")


def _winner(rows: Sequence[Judgement]) -> str | None:
    """Answer with the most votes, in a tie the one given first; None without votes."""
    ordered = sorted(rows, key=lambda row: (row.order, row.id))
    votes = Counter(row.answer for row in ordered if row.answer is not None)
    return max(votes, key=votes.__getitem__, default=None)


def surplus_chains(kept: Mapping[str, int | None], config: SelectConfig) -> set[str]:
    """Ids of the chains to reject so that no hop count has more than its share.

    The kept chains of a hop count are drawn by a hash of their ids: the same ones in every selection, and
    those of a smaller share are among those of a larger one.

    kept: id → hop count of the chains that are kept so far
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
