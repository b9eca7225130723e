"""Answers of any model to questions, through the one reasoning loop."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steper_ray.chains.attempts import MissingAttempts
    from steper_ray.chains.teachers import Reasoner
    from steper_ray.chains.usage import Progress
    from steper_ray.schema import Chain, Question


def answer(
    reasoner: "Reasoner",
    missing: Sequence["MissingAttempts"],
    out: Path,
    *,
    corpus: Path,
    log: Path,
    on_progress: "Progress | None" = None,
) -> list["Chain"]:
    """Chains of a model for questions or single steps, ordered by id; also written to `out` as Parquet.

    Needs a running Ray and an indexed corpus.

    log: folder for the log of a new launch; within a launch its log is written on
    """
    from steper_ray.chains.rows import read_chains
    from steper_ray.chains.stream import write_chains

    write_chains(missing, out, reasoner=reasoner, corpus=corpus, log=log, on_progress=on_progress)
    return read_chains(out)


def kept_answers(
    reasoner: "Reasoner",
    missing: Sequence["MissingAttempts"],
    out: Path,
    *,
    corpus: Path,
    log: Path,
    on_progress: "Progress | None" = None,
) -> list["Chain"]:
    """`answer`, where `out` does not have the chains of the same model to the same questions already.

    Another task, or a raised rule of reading or scoring answers, is applied to those that it has.
    """
    from steper_ray.chains.attempts import next_id
    from steper_ray.chains.rows import read_chains
    from steper_ray.chains.scoring import score_again
    from steper_ray.reasoning.frameworks import framework_named
    from steper_ray.retrieval import corpus_identity
    from steper_ray.run.dependencies import SCORED_BY, answers_identity
    from steper_ray.run.identity import RECORD_FILE, differences, read_record, write_record
    from steper_ray.tasks import task_named

    now = answers_identity(corpus_identity(corpus), "", reasoner.identity, reasoner.task)
    file = out.with_name(f"{out.name}.{RECORD_FILE}")
    before, samples = read_record(file), {next_id(one, reasoner): one for one in missing}
    if before is None or differences(before, now, ignore=SCORED_BY) or not _has(out, samples):
        file.unlink(missing_ok=True)  # it must not be there before its answers
        chains = answer(reasoner, missing, out, corpus=corpus, log=log, on_progress=on_progress)
        write_record(file, now)
        return chains
    print(f"  eval  {out.name}: answered before, with the same settings; see {out}")
    chains = read_chains(out)
    if differences(before, now):
        framework = framework_named(reasoner.reasoning.framework)
        task = task_named(reasoner.task)
        chains = [score_again(chain, framework, task) for chain in chains]
    return chains


def as_rows(chains: Sequence["Chain"]) -> list[dict[str, Any]]:
    """One row a chain, with the columns of `arrow.CHAIN_SCHEMA`."""
    return [asdict(chain) for chain in chains]


def _has(folder: Path, samples: Mapping[str, "MissingAttempts"]) -> bool:
    """Whether a folder has one chain to each question or step, as it is asked and judged now."""
    from steper_ray.chains.rows import read_chains

    def of_question(id: str, one: "Chain | Question") -> tuple[Any, ...]:
        return id, one.question, one.gold_answers, one.supporting_ids, one.hops

    def given(chain: "Chain", step: int) -> tuple[Any, ...]:
        """What a model was given of a chain before it wrote a step."""
        found = [one.passage_ids for one in chain.steps[:step]]
        return found, [one.rationale for one in chain.steps[: step - 1]]

    if not folder.is_dir():
        return False
    chains = {chain.id: chain for chain in read_chains(folder)}
    return chains.keys() == samples.keys() and all(
        of_question(id, chains[id]) == of_question(id, sample.question)
        and all(given(chains[id], sample.step) == given(one, sample.step) for one in sample.earlier)
        for id, sample in samples.items()
    )
