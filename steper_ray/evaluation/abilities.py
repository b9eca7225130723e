"""Each ability by itself: given the state at a step of a right chain, is the next step right?

A state is what a right chain of the teacher's had found and said before a step. Every model writes that one
step, so a fault of its own earlier steps costs it nothing here. No model judges:

* a step before the last is right if it says what the teacher's says, each name and number that was not
  said before (in the question or an earlier step), and if a search with it finds a gold passage that the
  teacher's next search found. Where one of the two cannot be told, the other decides: the teacher's step
  has nothing new, the data set names no gold passages, or they were all found before. Where neither can,
  the step does not count.
* the last step is right if its answer is, by the task.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steper_ray.chains.attempts import MissingAttempts
from steper_ray.evaluation.summary import AbilityScore
from steper_ray.schema import Chain
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.selection.grounding import news


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Of one step; None is what cannot be told."""

    says: bool | None = None
    finds: bool | None = None
    answers: bool | None = None

    @property
    def right(self) -> bool | None:
        known = [one for one in (self.says, self.finds, self.answers) if one is not None]
        return all(known) if known else None


def given_steps(chains: Sequence[Chain]) -> list[MissingAttempts]:
    """Every step of the right ones among a teacher's chains, to be written by another model."""
    return [
        MissingAttempts(chain.asked, earlier=(chain,), step=number)
        for chain in chains
        if chain.right and chain.error is None
        for number in range(1, len(chain.steps) + 1)
    ]


def ability_scores(
    given: Sequence[MissingAttempts], written: Mapping[str, Chain], scheme: AbilityScheme
) -> dict[str, AbilityScore]:
    """Scores by ability, in the order of the scheme.

    written: by the id of a step (`q1:step-2`), the given chain up to that step as the model went on
    """
    verdicts: dict[str, list[_Verdict]] = {name: [] for name in scheme.names}
    errors = dict.fromkeys(scheme.names, 0)
    for one in given:
        (gold,) = one.earlier
        ability = scheme.of(one.step, len(gold.steps))
        chain = written[f"{one.question.id}:step-{one.step}"]
        errors[ability] += chain.error is not None
        verdicts[ability].append(judge_step(gold, chain, one.step))
    return {name: _score(verdicts[name], errors[name]) for name in scheme.names}


def judge_step(gold: Chain, written: Chain, number: int) -> _Verdict:
    """Whether a step of a chain, written anew, is right.

    gold:    the chain that is right
    written: the same up to a step, which is another; and the search that follows on it
    number:  of the step, from 1
    """
    failed = written.error is not None
    if number == len(gold.steps):
        return _Verdict(answers=not failed and bool(written.right))
    known = [gold.question, *(step.rationale for step in gold.steps[: number - 1])]
    old, following = gold.steps[number - 1], gold.steps[number]
    new = "" if failed else written.steps[number - 1].rationale
    found = {id for step in gold.steps[:number] for id in step.passage_ids}
    wanted = (set(gold.supporting_ids) - found).intersection(following.passage_ids)
    searched = [step.passage_ids for step in written.steps[number:]]
    return _Verdict(
        says=not news(old.rationale, [*known, new]) if news(old.rationale, known) else None,
        finds=any(wanted.intersection(ids) for ids in searched) if wanted else None,
    )


def _score(verdicts: Sequence[_Verdict], errors: int) -> AbilityScore:
    right = [one.right for one in verdicts if one.right is not None]
    says = [one.says for one in verdicts if one.says is not None]
    finds = [one.finds for one in verdicts if one.finds is not None]
    return AbilityScore(
        steps=len(right),
        right=_share(right) or 0.0,
        says=_share(says),
        finds=_share(finds),
        errors=errors,
    )


def _share(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None
