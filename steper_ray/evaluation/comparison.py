"""Results of a comparison: scores, intervals and paired tests of every contender."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.evaluation.significance import difference_interval, holm, interval, paired_p
from steper_ray.evaluation.summary import Scores, Summary, summarize
from steper_ray.files import write_whole

if TYPE_CHECKING:
    from steper_ray.evaluation.summary import Row


METRICS: Final = ("em", "f1", "acc")


COMPARISON_FILE: Final = "comparison.json"


@dataclass(frozen=True, slots=True)
class TrainedStudent:
    """A student of a variant, and what its training cost."""

    variant: str
    lr: float
    seed: int
    folder: Path
    """Its run folder: `student/`, `training/`, and the chains it answered with."""
    steps: int
    input_tokens: int
    """Prompt and target tokens of all examples, every epoch counted."""
    supervised_tokens: int
    """Target tokens among the input tokens."""
    seconds: float


@dataclass(frozen=True, slots=True)
class Contender:
    """A model's answers to the test questions, and how they compare with the baseline's."""

    name: str
    lr: float | None
    """The learning rate that won on the dev questions; None for a model that was not trained here."""
    steps: int
    input_tokens: int
    supervised_tokens: int
    """Steps and tokens are of the training with one seed."""
    summary: Summary
    """Means over questions and seeds; counts are those of one seed."""
    em_of_seed: tuple[float, ...]
    interval: dict[str, tuple[float, float]]
    """95 % bootstrap interval over questions of em, f1 and acc."""
    difference: dict[str, float]
    """em, f1 and acc less the baseline's."""
    difference_interval: tuple[float, float]
    """95 % bootstrap interval of the difference in em."""
    p: float | None
    """p-value of the paired test of em against the baseline, Holm-adjusted; None for the baseline."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """Exact match on the dev questions of one learning rate."""

    variant: str
    lr: float
    em: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Results of a comparison, as `comparison.json` has them."""

    baseline: str
    questions: int
    dev_questions: int
    """0 where no learning rate had to be chosen."""
    epochs: int
    contenders: tuple[Contender, ...]
    tuning: tuple[Tuning, ...]


def judge(
    answers: Mapping[str, Sequence[Sequence["Row"]]],
    students: Mapping[str, Sequence[TrainedStudent]],
    baseline: str,
) -> tuple[Contender, ...]:
    """Scores, intervals and tests, from every model's rows.

    answers: by name, for each seed one row a question, all in the same order of questions
    students: the trained students, by variant
    """
    import numpy as np

    scores = {
        name: {
            metric: np.array([[row[metric] for row in rows] for rows in seeds])
            for metric in METRICS
        }
        for name, seeds in answers.items()
    }
    against = scores[baseline]
    others = [name for name in answers if name != baseline]
    adjusted = holm([paired_p(scores[name]["em"], against["em"]) for name in others])
    p_of = dict(zip(others, adjusted, strict=True))
    contenders = []
    for name, seeds in answers.items():
        first = students[name][0] if name in students else None
        contenders.append(
            Contender(
                name=name,
                lr=first.lr if first else None,
                steps=first.steps if first else 0,
                input_tokens=first.input_tokens if first else 0,
                supervised_tokens=first.supervised_tokens if first else 0,
                summary=_mean_summary(seeds),
                em_of_seed=tuple(scores[name]["em"].mean(1).tolist()),
                interval={metric: interval(scores[name][metric]) for metric in METRICS},
                difference={
                    metric: float(scores[name][metric].mean() - against[metric].mean())
                    for metric in METRICS
                },
                difference_interval=difference_interval(scores[name]["em"], against["em"]),
                p=p_of.get(name),
            )
        )
    return tuple(contenders)


def _mean_summary(seeds: Sequence[Sequence["Row"]]) -> Summary:
    """Scores over all seeds; the number of questions is that of one."""
    pooled = summarize([row for rows in seeds for row in rows])

    def per_seed(scores: Scores) -> Scores:
        return replace(scores, questions=scores.questions // len(seeds))

    hops = {hop: per_seed(scores) for hop, scores in pooled.hops.items()}
    types = {name: per_seed(scores) for name, scores in pooled.types.items()}
    return Summary(per_seed(pooled.overall), hops, types)


def write_comparison(folder: Path, comparison: Comparison) -> None:
    """Write `comparison.json` to the folder, whole or not at all."""
    values = json.dumps(asdict(comparison), indent=2, ensure_ascii=False)
    write_whole(folder / COMPARISON_FILE, values + "\n", errors="replace")
