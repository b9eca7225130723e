"""One chain worked out by hand, folders of chains made of it, a run's corpus and questions, a card."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.data.questions import load_questions
from steper_ray.data.settings import Split
from steper_ray.reports.student_card import Card
from steper_ray.retrieval.corpus import CorpusInfo, build_corpus
from steper_ray.run.config import RunConfig
from steper_ray.schema import Chain, Passage, Question, Step
from steper_ray.training.settings import TrainConfig

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
    right=1.0,
    model="/models/teacher",
    corpus_version="c0ffee",
    supporting_ids=("p1", "p2", "p3"),
)

CARD: Final = Card(
    base_model="Some-Org/Base_1.5B",
    teacher="Some-Org/Teacher-70B",
    objective="difficulty",
    abilities=("init", "exp", "agg"),
    settings=TrainConfig(model="Some-Org/Base_1.5B", lr=1.25e-5).model_dump(),
    framework="ircot",
    passages_per_step=3,
    max_steps=6,
    max_prompt_tokens=4321,
    corpus_version="c0ffee42",
    chains=1111,
    examples={"init": 1112, "exp": 2223, "agg": 1114},
    dropped_passages=77,
    steps=345,
    epochs=9,
    input_tokens=12345678,
    supervised_tokens=987654,
    losses={"init": 0.51234, "exp": None, "agg": 0.31},
    validation_loss=0.41237,
    validation_step=321,
    sigma={"init": 0.71, "exp": 0.62, "agg": 0.53},
    workers=8,
    seconds=3605.4,
    versions={"torch": "2.13.0", "ray": "2.60.0"},
)
"""The card of a student."""

SCORES: Final = {
    "base": {"em": 0.1, "f1": 0.2, "acc": 0.15},
    "student": {"em": 0.45678, "f1": 0.5, "acc": 1.0},
}
"""Scores of two models, to be added to the card."""


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
