"""Questions that stand in two splits: what a model learned on would be measured on.

The questions of each split that a stage has read are kept as hashes beside their row accounting, so that a
later stage compares with them without reading the other split again. Questions are compared by their words,
whatever their ids, signs and capitals.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, get_args

from steper_ray.data.settings import Split
from steper_ray.files import write_whole
from steper_ray.schema import Question
from steper_ray.text import unify

SPLITS: Final[tuple[Split, ...]] = get_args(Split)


_WORD: Final = re.compile(r"\w+")


def write_asked(inputs: Path, split: Split, questions: Iterable[Question]) -> None:
    """Keep the hashes of a split's questions, a line each."""
    write_whole(_file(inputs, split), "".join(f"{_hash(q.question)}\n" for q in questions))


def overlap_lines(inputs: Path, split: Split) -> list[str]:
    """A line for each other split with questions of this one; only splits that were read are compared.

    inputs: folder of the row accounting
    """
    own = _asked(inputs, split)
    lines = []
    for other in SPLITS:
        theirs = set(_asked(inputs, other))
        shared = sum(question in theirs for question in own)
        if other != split and shared:
            lines.append(
                f"questions.{split}: {shared:,} of {len(own):,} questions stand in questions.{other} too; "
                "scores on them do not show what a model does with new questions: leave them out of one"
            )
    return lines


def _file(inputs: Path, split: Split) -> Path:
    return inputs / f"questions.{split}.hashes"


def _asked(inputs: Path, split: Split) -> Sequence[str]:
    file = _file(inputs, split)
    return file.read_text(encoding="utf-8").split() if file.exists() else ()


def _hash(question: str) -> str:
    words = " ".join(_WORD.findall(unify(question)))
    return hashlib.sha256(words.encode(errors="surrogatepass")).hexdigest()[:16]
