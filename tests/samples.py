"""One chain worked out by hand, folders of chains made of it, and a run's corpus and questions."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.data.questions import Split, load_questions
from steper_ray.retrieval.corpus import CorpusInfo, build_corpus
from steper_ray.run.config import RunConfig
from steper_ray.schema import Chain, Passage, Question, Step

PASSAGES: Final = (
    Passage("p1", "Zalk Stumum", "Zalk Stumum presents Kek Bibro. It ran for a long season."),
    Passage("p2", "Kek Bibro", "In 1984 Kek Bibro praised Old Harbour. It owns seven trucks."),
    Passage(
        "p3", "Old Harbour", "Old Harbour elected Marie-Claire O’Neill, its 12th mayor, in May."
    ),
)


def step(rationale: str, *ids: str, **values: Any) -> Step:
    """A step that says this after a search that brought these passages."""
    known = {"query": "query", "mean_logprob": -0.1, "prompt_tokens": 10, "generated_tokens": 5}
    return Step(rationale=rationale, passage_ids=ids, **{**known, **values})


CHAIN: Final = Chain(
    id="q1",
    question_id="q1",
    question="Who is the mayor of the town that the band of Zalk Stumum praises?",
    gold_answers=("Marie-Claire O'Neill", "Neill"),
    hops=3,
    passages=PASSAGES,
    steps=(
        step("Zalk Stumum presents Kek Bibro.", "p1"),
        step("Kek Bibro praised Old Harbour in 1984.", "p2", mean_logprob=-0.5),
        step(
            "Old Harbour elected Marie-Claire O'Neill. So the answer is: Marie-Claire O'Neill.",
            "p3",
        ),
    ),
    answer="Marie-Claire O'Neill",
    stop_reason="answered",
    em=1.0,
    f1=1.0,
    acc=1.0,
    model="/models/teacher",
    corpus_version="c0ffee",
    supporting_ids=("p1", "p2", "p3"),
)


def numbered(numbers: Iterable[int], **values: Any) -> list[Chain]:
    """CHAIN with ids of its own; values are replaced, called with the number where they can be."""
    return [
        replace(
            CHAIN,
            id=f"q{number:03d}",
            question_id=f"q{number:03d}",
            **{k: value(number) if callable(value) else value for k, value in values.items()},
        )
        for number in numbers
    ]


def write(folder: Path, chains: Sequence[Chain], per_file: int = 1000) -> None:
    """Chains as Parquet files of so many each."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(chains), per_file):
        rows = [asdict(chain) for chain in chains[start : start + per_file]]
        table = pa.Table.from_pylist(rows, CHAIN_SCHEMA)
        pq.write_table(table, folder / f"part-{start:04d}.parquet")


def config(run_dir: Path, **select: Any) -> RunConfig:
    """A run with these settings of selection, and the defaults for the rest."""
    return RunConfig.model_validate({"run": {"dir": str(run_dir)}, "select": select})


def index_corpus(run: RunConfig) -> CorpusInfo:
    """The corpus of a run, indexed where the run expects it."""
    folder = run.folder
    return build_corpus(run.corpus, out=folder.corpus, inputs=folder.inputs, hub=run.hub)


def questions_of(run: RunConfig, split: Split) -> list[Question]:
    """The questions of a split of a run."""
    return load_questions(run.questions, split, run.folder.inputs)
