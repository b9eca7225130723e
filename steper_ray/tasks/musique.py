"""Question answering by MuSiQue's official script, whose F1 has no rule of its own for yes and no.

Everything else is as in `steper_ray.tasks.qa`: the two scripts normalise alike. An answer of `yes, both` to
the gold answer `yes` has an F1 of 2/3 here (SQuAD's rule, `metrics/answer.py` of MuSiQue), and of 0 there.
"""

from collections.abc import Sequence

from steper_ray.schema import Question
from steper_ray.tasks import qa


def score(answer: str, question: Question) -> dict[str, float]:
    """The scores of `qa`, with MuSiQue's F1."""
    return {**qa.score(answer, question), "f1": f1(answer, question.gold_answers)}


def f1(answer: str, golds: Sequence[str]) -> float:
    """Best token F1 in [0, 1] over the gold answers; two texts that normalise to nothing are equal."""
    given = qa.normalize(answer)
    return max((_f1(given, qa.normalize(gold)) for gold in golds), default=0.0)


def _f1(given: str, gold: str) -> float:
    return qa.token_f1(given, gold) if given and gold else float(given == gold)
