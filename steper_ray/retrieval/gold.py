"""Gold passages: which of them the corpus has, and what share the steps of chains found.

The share is the recall of multi-step retrieval: of the passages that a question's data set names as its
support, how many the searches up to a step brought.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.data.questions import load_questions
from steper_ray.data.row_counts import note_missing_gold
from steper_ray.data.settings import Split
from steper_ray.errors import InputError
from steper_ray.retrieval.corpus_record import read_corpus_record
from steper_ray.schema import Question

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


MAX_SHOWN: Final = 3
"""Ids of missing passages that are named."""


Found = tuple[int, tuple[int, ...]]
"""Of a chain: its gold passages, and how many of them were found up to each step."""


def asked_questions(config: "RunConfig", split: Split) -> list[Question]:
    """The questions of a split, in file order, with their gold passages looked up in the indexed corpus.

    The rows read, and the gold passages that the corpus lacks, are written into the run's `inputs`.
    Raises InputError as `steper_ray.data.questions.load_questions` does, and if the corpus has none of the
    gold passages.
    """
    questions = load_questions(config.questions, split, config.folder.inputs)
    named = {id: question.id for question in questions for id in question.supporting_ids}
    missing = missing_ids(config.folder.corpus, named)
    setting = f"questions.{split}"
    shown = [f"{id} of question {named[id]}" for id in missing[:MAX_SHOWN]]
    if missing and len(missing) == len(named):
        raise InputError(
            f"{setting}: the corpus has none of their {len(named):,} gold passages (as {shown[0]}); give "
            "the corpus that they are of, or set questions.gold_passages: false to go on without them"
        )
    note_missing_gold(config.folder.inputs, setting, len(named), len(missing), shown)
    return questions


def missing_ids(corpus: Path, ids: Collection[str]) -> list[str]:
    """Those of the ids that no passage of an indexed corpus has, in their order; none where nothing is
    searched.

    Reads the ids of all passages: about a second for a few million.
    """
    if not ids or read_corpus_record(corpus).retriever["type"] == "none":
        return []
    import lance
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = pa.array(list(ids), pa.string())
    there: set[str] = set()
    for batch in lance.dataset(str(corpus)).to_batches(columns=["id"]):
        there.update(batch["id"].filter(pc.is_in(batch["id"], wanted)).to_pylist())
    return [id for id in ids if id not in there]


def found_by_step(steps: Iterable[Sequence[str]], gold: Iterable[str]) -> Found:
    """How many gold passages there are, and how many of them the searches up to each step brought.

    steps: the ids of the passages that each step's search added
    """
    wanted = set(gold)
    sizes, seen = [], set[str]()
    for ids in steps:
        seen |= wanted.intersection(ids)
        sizes.append(len(seen))
    return len(wanted), tuple(sizes)


def recall_by_step(chains: Mapping[Found, int]) -> list[float]:
    """Mean share of the gold passages found up to each step, in [0, 1]; a chain that has ended keeps its.

    chains: `found_by_step` → how many chains it is of; those without gold passages or steps do not count
    """
    counted = {found: number for found, number in chains.items() if found[0] and found[1]}
    total = sum(counted.values())
    longest = max((len(sizes) for _, sizes in counted), default=0)
    shares = (
        math.fsum(
            n * sizes[min(step, len(sizes) - 1)] / gold for (gold, sizes), n in counted.items()
        )
        for step in range(longest)
    )
    return [round(share / total, 6) for share in shares]
