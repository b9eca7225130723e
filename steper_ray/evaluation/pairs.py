"""Two models on the same questions: how far apart they are, and whether the questions suffice to tell."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final

import numpy as np

from steper_ray.evaluation.significance import difference_interval, holm, interval, paired_p

if TYPE_CHECKING:
    from steper_ray.evaluation.summary import Row


SURE: Final = 0.05
"""p-value below which two models are said to differ."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Exact match of one model less that of another."""

    model: str
    other: str
    questions: int
    difference: float
    interval: tuple[float, float]
    """95 % bootstrap interval of the difference over the questions."""
    p: float
    """Of the paired randomisation test, adjusted for the number of pairs (Holm)."""

    @property
    def is_sure(self) -> bool:
        """Whether so many questions tell the two apart."""
        return self.p < SURE


def pairs_of(chains: "Mapping[str, Sequence[Row]]") -> tuple[Pair, ...]:
    """Every two models, in their order; none for fewer than two questions.

    chains: by model, one row a question, the same questions in the same order
    """
    em = {name: np.array([_scores(rows, "em")]) for name, rows in chains.items()}
    both = list(combinations(em, 2))
    if any(scores.size < 2 for scores in em.values()):
        return ()
    p_values = holm([paired_p(em[model], em[other]) for model, other in both])
    return tuple(
        Pair(
            model=model,
            other=other,
            questions=em[model].size,
            difference=float(em[model].mean() - em[other].mean()),
            interval=difference_interval(em[model], em[other]),
            p=p,
        )
        for (model, other), p in zip(both, p_values, strict=True)
    )


def f1_interval(rows: "Sequence[Row]") -> tuple[float, float] | None:
    """95 % bootstrap interval of F1 over the questions; None for fewer than two."""
    scores = _scores(rows, "f1")
    return interval([scores]) if len(scores) > 1 else None


def _scores(rows: "Sequence[Row]", metric: str) -> list[float]:
    """A score of each question; what could not be answered is wrong."""
    return [0.0 if row["error"] is not None else row[metric] for row in rows]


def pair_text(pair: Pair) -> str:
    """`student 5.0 points above base (1.2 to 8.8, p 0.01)`, and whether that tells them apart."""
    low, high = (100 * end for end in pair.interval)
    points = abs(100 * pair.difference)
    way = "above" if pair.difference >= 0 else "below"
    if pair.difference < 0:
        low, high = 0.0 - high, 0.0 - low  # no -0.0
    text = f"{pair.model} {points:.1f} points {way} {pair.other} ({low:.1f} to {high:.1f}"
    text += f", p {pair.p:.2g})"
    questions = f"{pair.questions:,} questions"
    return text if pair.is_sure else f"{text}: {questions} do not tell them apart"
