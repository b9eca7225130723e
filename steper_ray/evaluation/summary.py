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
from steper_ray.tasks.qa import contains, normalize

Row = Mapping[str, Any]
"""A row with the columns of `schema.CHAIN_SCHEMA`."""


COLUMNS: Final = (
    *("gold_answers", "supporting_ids", "hops", "steps", "answer", "stop_reason"),
    *("em", "f1", "acc", "error"),
)


BASE: Final = "base"
"""Name of the run's base student among other models, as STUDENT and TEACHER are those of these."""


MOST_TYPES: Final = 12
"""Kinds of questions that are told apart; a column with more is of something else."""


YES_NO: Final = "yes/no"


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
    precision: tuple[float, ...]
    """Mean share of gold passages among those that the searches up to each step brought, likewise."""
    answered: float
    """Share of questions with an answer that is not empty."""
    stop_reasons: dict[str, float]
    """Share of chains without an error that ended for each reason."""
    cut_off: float
    """Share of steps that the limit of tokens ended."""
    seconds_p50: float
    """Median time of a question, as `seconds`."""
    seconds_p95: float
    """Time within which 95 of 100 questions were answered."""
    seconds_per_right: float | None
    """Time of all questions by the number that were answered exactly; None where none was."""
    tokens_per_right: float | None
    """Tokens of all questions, read and written, likewise."""

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
    types: dict[str, Scores] = field(default_factory=dict)
    """By what the data set calls its questions, most questions first; `yes/no` are those of that answer."""
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
    typed: dict[str, list[Row]] = {}
    for chain in chains:
        if (name := question_type(chain)) is not None:
            typed.setdefault(name, []).append(chain)
    by_size = sorted(typed, key=lambda name: (-len(typed[name]), name))
    by_type = {name: _scores(typed[name]) for name in by_size} if len(typed) <= MOST_TYPES else {}
    return Summary(overall=_scores(chains), hops=by_hops, types=by_type)


def question_type(chain: Row) -> str | None:
    """The kind of a question: `yes/no` by its answer, else what the data set calls it; None if unknown."""
    if normalize(chain["gold_answers"][0]) in ("yes", "no"):  # an alias may be: Norway, NO
        return YES_NO
    kind: str | None = chain.get("type")
    return kind


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
    """A share in whole percent with its 95 % interval: `62% (51–72)`."""
    low, high = wilson_interval(share, questions)
    return f"{100 * share:.0f}% ({100 * low:.0f}–{100 * high:.0f})"


def _scores(chains: Sequence[Row]) -> Scores:
    produced = [chain for chain in chains if chain["error"] is None]
    steps = [step for chain in produced for step in chain["steps"]]
    found = Counter(
        found_by_step((step["passage_ids"] for step in chain["steps"]), chain["supporting_ids"])
        for chain in produced
        if chain["supporting_ids"]
    )
    asked, right = len(chains), sum(chain["em"] == 1 for chain in produced)
    seconds = sorted(
        math.fsum(step["search_seconds"] + step["generate_seconds"] for step in chain["steps"])
        for chain in produced
    )
    tokens = sum(step["prompt_tokens"] + step["generated_tokens"] for step in steps)
    reasons = Counter(chain["stop_reason"] for chain in produced)
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
        seconds=_mean(seconds, len(produced)),
        prompt_tokens=_mean((step["prompt_tokens"] for step in steps), len(produced)),
        generated_tokens=_mean((step["generated_tokens"] for step in steps), len(produced)),
        supported=found.total(),
        recall=tuple(recall_by_step(found)),
        precision=precision_by_step(produced),
        answered=_mean((bool(chain["answer"].strip()) for chain in produced), asked),
        stop_reasons={reason: number / len(produced) for reason, number in reasons.most_common()},
        cut_off=_mean((step.get("finish_reason") == "length" for step in steps), len(steps)),
        seconds_p50=_percentile(seconds, 0.5),
        seconds_p95=_percentile(seconds, 0.95),
        seconds_per_right=math.fsum(seconds) / right if right else None,
        tokens_per_right=tokens / right if right else None,
    )


def precision_by_step(chains: Iterable[Row]) -> tuple[float, ...]:
    """Mean share of gold passages among those found up to each step; a chain that has ended keeps its.

    Chains without gold passages or steps do not count.
    """
    shares = []
    for chain in chains:
        gold, found = set(chain["supporting_ids"]), list[str]()
        of_chain = []
        for step in chain["steps"] if gold else ():
            found += step["passage_ids"]
            of_chain.append(len(gold.intersection(found)) / len(found) if found else 0.0)
        if of_chain:
            shares.append(of_chain)
    longest = max(map(len, shares), default=0)
    return tuple(
        round(math.fsum(one[: number + 1][-1] for one in shares) / len(shares), 6)
        for number in range(longest)
    )


def _percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that so many of the values do not exceed; 0 for none."""
    return ordered[math.ceil(share * len(ordered)) - 1] if ordered else 0.0


def _mean(values: Iterable[float], count: int) -> float:
    return math.fsum(values) / count if count else 0.0
