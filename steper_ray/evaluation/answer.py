"""Answers of any model to questions, through the one reasoning loop."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steper_ray.chains.teachers import Reasoner
    from steper_ray.chains.usage import Progress
    from steper_ray.schema import Question


def answer(
    reasoner: "Reasoner",
    questions: Sequence["Question"],
    out: Path,
    *,
    corpus: Path,
    log: Path,
    on_progress: "Progress | None" = None,
) -> list[dict[str, Any]]:
    """Chains of a model for the questions as rows, ordered by id; also written to `out` as Parquet.

    Needs a running Ray and an indexed corpus.

    log: folder for the log of a new launch; within a launch its log is written on
    """
    from steper_ray.chains.attempts import MissingAttempts
    from steper_ray.chains.rows import read_chains
    from steper_ray.chains.stream import write_chains

    write_chains(
        [MissingAttempts(question) for question in questions],
        out,
        reasoner=reasoner,
        corpus=corpus,
        log=log,
        on_progress=on_progress,
    )
    return [asdict(chain) for chain in read_chains(out)]
