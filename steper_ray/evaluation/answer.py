"""Answers of any model to questions, through the one reasoning loop."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steper_ray.chains.teachers import Reasoner
    from steper_ray.chains.usage import Progress
    from steper_ray.schema import Chain, Question


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


def kept_answers(
    reasoner: "Reasoner",
    questions: Sequence["Question"],
    out: Path,
    *,
    corpus: Path,
    log: Path,
    on_progress: "Progress | None" = None,
) -> list[dict[str, Any]]:
    """`answer`, where `out` does not have the same model's answers to the same questions already.

    Another task, or a raised rule of reading or scoring answers, is applied to those that it has.
    """
    from steper_ray.chains.rows import read_chains
    from steper_ray.chains.scoring import score_again
    from steper_ray.reasoning.frameworks import framework_named
    from steper_ray.retrieval import corpus_identity
    from steper_ray.run.dependencies import SCORED_BY, answers_identity
    from steper_ray.run.identity import RECORD_FILE, differences, read_record, write_record
    from steper_ray.tasks import task_named

    now = answers_identity(corpus_identity(corpus), "", reasoner.identity, reasoner.task)
    file = out.with_name(f"{out.name}.{RECORD_FILE}")
    before = read_record(file)
    if before is None or differences(before, now, ignore=SCORED_BY) or not _has(out, questions):
        file.unlink(missing_ok=True)  # not before its answers, were this command killed
        rows = answer(reasoner, questions, out, corpus=corpus, log=log, on_progress=on_progress)
        write_record(file, now)
        return rows
    print(f"  eval  {out.name}: answered before, with the same settings; see {out}")
    chains = read_chains(out)
    if differences(before, now):
        framework = framework_named(reasoner.reasoning.framework)
        task = task_named(reasoner.task)
        chains = [score_again(chain, framework, task) for chain in chains]
    return [asdict(chain) for chain in chains]


def _has(folder: Path, questions: Sequence["Question"]) -> bool:
    """Whether a folder has one chain to each question, as it is asked and judged now."""
    from steper_ray.chains.rows import read_chains

    def key(one: "Question | Chain") -> tuple[Any, ...]:
        return one.id, one.question, one.gold_answers, one.supporting_ids, one.hops

    if not folder.is_dir():
        return False
    return sorted(map(key, read_chains(folder)), key=str) == sorted(map(key, questions), key=str)
