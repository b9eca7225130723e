"""Question answering: HotpotQA's exact match and F1, and containment accuracy.

Normalisation, exact match and F1 follow HotpotQA's official script (`hotpot_evaluate_v1.py`), so
that the numbers compare with published ones. Accuracy is the third number StepER reports: a gold
answer stands inside the answer. With several accepted answers each metric takes its best.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Final

from steper_ray.schema import Question
from steper_ray.tasks.matching import is_same_answer

_DELETE_PUNCTUATION: Final = str.maketrans("", "", string.punctuation)


_ARTICLES: Final = re.compile(r"\b(?:a|an|the)\b")


_CLOSED_ANSWERS: Final = frozenset({"yes", "no", "noanswer"})


def score(answer: str, question: Question) -> dict[str, float]:
    """Exact match, F1 and containment accuracy against the gold answers, and whether it is right."""
    golds = question.gold_answers
    return {
        "em": exact_match(answer, golds),
        "f1": f1(answer, golds),
        "acc": accuracy(answer, golds),
        "right": float(is_same_answer(answer, golds)),
    }


def normalize(answer: str) -> str:
    """The answer in lower case, without ASCII punctuation, articles and spare white space.

    In the official order: punctuation is deleted, not made a space, and before the articles go.
    So `Spider-Man` becomes `spiderman`, and `A.` vanishes as an article.
    """
    bare = answer.lower().translate(_DELETE_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1 if the normalised answer equals a normalised gold answer, else 0.

    As in the official script, two texts that normalise to nothing are equal.
    """
    given = normalize(answer)
    return float(any(given == normalize(gold) for gold in _listed(golds)))


def f1(answer: str, golds: Sequence[str]) -> float:
    """Best token F1 in [0, 1] over the gold answers; tokens count as often as they occur.

    If either side is yes, no or noanswer, anything but equality scores 0 (official script).
    """
    given = normalize(answer)
    return max((_official_f1(given, normalize(gold)) for gold in _listed(golds)), default=0.0)


def accuracy(answer: str, golds: Sequence[str]) -> float:
    """1 if a normalised gold answer stands in the normalised answer on word boundaries, else 0.

    An empty side never counts.
    """
    given = f" {normalize(answer)} "
    normalised = (normalize(gold) for gold in _listed(golds))
    return float(any(f" {gold} " in given for gold in normalised if gold))


def contains(answer: str, golds: Sequence[str]) -> bool:
    """Whether the normalised answer contains a normalised gold answer, whatever stands around it.

    FlashRAG's `acc`: 1912 is in 19125, and an empty gold answer in everything.
    """
    given = normalize(answer)
    return any(normalize(gold) in given for gold in _listed(golds))


def token_f1(given: str, gold: str) -> float:
    """F1 of two normalised texts, whose tokens count as often as they occur; 0 with none in common."""
    given_tokens, gold_tokens = given.split(), gold.split()
    common = (Counter(given_tokens) & Counter(gold_tokens)).total()
    # 2PR / (P + R) with P = common / given and R = common / gold, without the roundings between.
    return 2 * common / (len(given_tokens) + len(gold_tokens)) if common else 0.0


def _official_f1(given: str, gold: str) -> float:
    if given != gold and not _CLOSED_ANSWERS.isdisjoint((given, gold)):
        return 0.0
    return token_f1(given, gold)


def _listed(golds: Sequence[str]) -> Sequence[str]:
    assert not isinstance(golds, str), "golds is a list of answers, not one answer"
    return golds
