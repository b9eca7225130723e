"""Scores and costs of an evaluated model, from its chains.

A pure function of the rows, so choosing other questions or joining two evaluations needs no model.
A question that could not be answered (its chain carries an error) counts as wrong and stays in the
denominator of every score. Such a chain has no steps and would lower the mean costs, so these exclude it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from steper_ray.errors import InputError
from steper_ray.evaluation.settings import STUDENT as STUDENT
from steper_ray.evaluation.settings import TEACHER as TEACHER
from steper_ray.retrieval.gold import found_by_step, recall_by_step
from steper_ray.schema import UNKNOWN_HOPS, is_forced
from steper_ray.tasks.qa import contains

Row = Mapping[str, Any]
"""A row with the columns of `schema.CHAIN_SCHEMA`."""


COLUMNS: Final = (
    *("gold_answers", "supporting_ids", "hops", "steps", "answer", "stop_reason"),
    *("em", "f1", "acc", "error"),
)


BASE: Final = "base"
"""Name of the run's base student among other models, as STUDENT and TEACHER are those of these."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Mean scores and costs of a set of chains."""

    questions: int
    errors: int
    """Questions whose chain carries an error."""
    em: float
    """Share of questions answered exactly, over all questions; f1 and acc likewise."""
    f1: float
    acc: float
    acc_substring: float
    """Share of answers in which a gold answer stands as a substring: FlashRAG's `acc`."""
    forced: float
    """Share of questions whose last prompt began the answer, as the model had not given one."""
    steps: float
    """Mean steps of a chain; this and the costs below are over chains without an error, and 0 when
    there is none."""
    seconds: float
    """Mean time of a question: searching and generating, waiting in the engine included."""
    prompt_tokens: float
    """Mean prompt tokens of a question, all steps together (cached ones included)."""
    generated_tokens: float
    """Mean tokens written for a question, all steps together."""
    supported: int
    """Questions with a chain whose gold passages are known."""
    recall: tuple[float, ...]
    """Mean share of these that the searches up to each step found; see `retrieval.gold.recall_by_step`."""

    @property
    def found(self) -> float | None:
        """Mean share of the gold passages that whole chains found; None where none are known."""
        return self.recall[-1] if self.recall else None

    @property
    def produced(self) -> int:
        """Questions that have a chain."""
        return self.questions - self.errors


@dataclass(frozen=True, slots=True)
class AbilityScore:
    """How well a model does one kind of step."""

    steps: int
    """That could be judged."""
    right: float
    """Share of them that are right; 0 where there is none."""
    says: float | None
    """Share of the steps that say what is new in the teacher's, where it has any; None where none has."""
    finds: float | None
    """Share of the steps that find a gold passage, where the teacher's does; None where none does."""
    errors: int
    """Steps that could not be written, which are wrong."""


@dataclass(frozen=True, slots=True)
class Summary:
    """A model's scores, overall and by the number of hops its questions need."""

    overall: Scores
    hops: dict[str, Scores]
    """Fewest hops first, as text ("2", "3"); `unknown` last, for questions that do not say."""
    abilities: dict[str, AbilityScore] = field(default_factory=dict)
    """Each ability by itself, where that was asked for (`eval.abilities`); see `evaluation.abilities`."""


def summarize(chains: Sequence[Row]) -> Summary:
    """Scores of one model from its chains, one row a question.

    Raises InputError for no chains at all, and for a row without one of COLUMNS.
    """
    if not chains:
        raise InputError("no chains to sum up; evaluate at least one question")
    for number, chain in enumerate(chains, 1):
        missing = [column for column in COLUMNS if column not in chain]
        if missing:
            raise InputError(f"chains: row {number}: no column {missing[0]!r}; build them again")
    groups: dict[int | None, list[Row]] = {}
    for chain in chains:
        groups.setdefault(chain["hops"], []).append(chain)
    known = sorted(hops for hops in groups if hops is not None)
    by_hops = {str(hops): _scores(groups[hops]) for hops in known}
    if None in groups:
        by_hops[UNKNOWN_HOPS] = _scores(groups[None])
    return Summary(overall=_scores(chains), hops=by_hops)


def wilson_interval(share: float, questions: int, z: float = 1.96) -> tuple[float, float]:
    """The interval that a share seen in `questions` draws is compatible with (Wilson 1927).

    share: in [0, 1]; z: standard normal quantile, 1.96 for 95 %
    """
    assert questions > 0
    spread = z * math.sqrt(share * (1 - share) / questions + (z / (2 * questions)) ** 2)
    centre = share + z * z / (2 * questions)
    scale = 1 + z * z / questions
    return max(0.0, (centre - spread) / scale), min(1.0, (centre + spread) / scale)


def interval_text(share: float, questions: int) -> str:
    """A share in whole percent with its interval: `62 % (51–72)`."""
    low, high = wilson_interval(share, questions)
    return f"{100 * share:.0f} % ({100 * low:.0f}–{100 * high:.0f})"


def _scores(chains: Sequence[Row]) -> Scores:
    produced = [chain for chain in chains if chain["error"] is None]
    steps = [step for chain in produced for step in chain["steps"]]
    found = Counter(
        found_by_step((step["passage_ids"] for step in chain["steps"]), chain["supporting_ids"])
        for chain in produced
        if chain["supporting_ids"]
    )
    asked = len(chains)
    return Scores(
        questions=asked,
        errors=asked - len(produced),
        em=_mean((chain["em"] for chain in produced), asked),
        f1=_mean((chain["f1"] for chain in produced), asked),
        acc=_mean((chain["acc"] for chain in produced), asked),
        acc_substring=_mean(
            (contains(chain["answer"], chain["gold_answers"]) for chain in produced), asked
        ),
        forced=_mean((is_forced(chain["stop_reason"]) for chain in produced), asked),
        steps=_mean((1 for _ in steps), len(produced)),
        seconds=_mean(
            (step["search_seconds"] + step["generate_seconds"] for step in steps), len(produced)
        ),
        prompt_tokens=_mean((step["prompt_tokens"] for step in steps), len(produced)),
        generated_tokens=_mean((step["generated_tokens"] for step in steps), len(produced)),
        supported=found.total(),
        recall=tuple(recall_by_step(found)),
    )


def _mean(values: Iterable[float], count: int) -> float:
    return math.fsum(values) / count if count else 0.0
