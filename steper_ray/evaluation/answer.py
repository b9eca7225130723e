"""Answers of any model to questions, through the one reasoning loop."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from steper_ray.chains.attempts import MissingAttempts
    from steper_ray.chains.teachers import Reasoner
    from steper_ray.chains.usage import Progress
    from steper_ray.schema import Chain


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
    from steper_ray.chains.attempts import next_id
    from steper_ray.chains.rows import read_chains
    from steper_ray.chains.stream import write_chains
    from steper_ray.run.identity import digest

    write_chains(
        missing,
        out,
        reasoner=reasoner,
        corpus=corpus,
        log=log,
        on_progress=on_progress,
        asked=digest(sorted([next_id(one, reasoner), *_asked(one)] for one in missing)),
    )
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
    from steper_ray.chains.scoring import score_again
    from steper_ray.reasoning.frameworks import framework_named
    from steper_ray.retrieval import corpus_identity
    from steper_ray.run.dependencies import SCORED_BY, answers_identity
    from steper_ray.run.identity import RECORD_FILE, differences, read_record, write_record
    from steper_ray.tasks import task_named

    now = answers_identity(corpus_identity(corpus), "", reasoner.identity, reasoner.task)
    file = out.with_name(f"{out.name}.{RECORD_FILE}")
    before, samples = read_record(file), {next_id(one, reasoner): one for one in missing}
    same = before is not None and not differences(before, now, ignore=SCORED_BY)
    chains = _kept_chains(out, samples) if same else None
    if before is None or chains is None:
        file.unlink(missing_ok=True)  # it must not be there before its answers
        chains = answer(reasoner, missing, out, corpus=corpus, log=log, on_progress=on_progress)
        write_record(file, now)
        return chains
    print(f"  eval  {out.name}: answered before, with the same settings; see {out}")
    # what the data set calls a question decides no answer
    chains = [replace(chain, type=samples[chain.id].question.type) for chain in chains]
    if differences(before, now):
        framework = framework_named(reasoner.reasoning.framework)
        task = task_named(reasoner.task)
        chains = [score_again(chain, framework, task) for chain in chains]
    return chains


def as_rows(chains: Sequence["Chain"]) -> list[dict[str, Any]]:
    """One row a chain, with the columns of `arrow.CHAIN_SCHEMA`."""
    return [asdict(chain) for chain in chains]


def _asked(sample: "MissingAttempts") -> list[Any]:
    """What a model is asked, and how its answer is judged, as JSON."""
    question = sample.question
    gold = [question.gold_answers, question.supporting_ids, question.hops]
    given = [_given(chain, sample.step, sample.step) for chain in sample.earlier]
    return json.loads(json.dumps([question.question, gold, given]))  # type: ignore[no-any-return]


def _given(chain: "Chain", step: int, searches: int) -> list[Any]:
    """What a model was given of a chain before it wrote a step.

    searches: how many of them to look at
    """
    found = [one.passage_ids for one in chain.steps[:searches]]
    return [found, [one.rationale for one in chain.steps[: step - 1]]]


def _kept_chains(folder: Path, samples: Mapping[str, "MissingAttempts"]) -> "list[Chain] | None":
    """A folder's chains if it has one to each question or step, as it is asked and judged now."""
    from steper_ray.chains.rows import read_chains

    def fits(chain: "Chain", sample: "MissingAttempts") -> bool:
        same_question = replace(chain.asked, type=None) == replace(sample.question, type=None)
        # a step that could not be written is not there
        searches = sample.step - (chain.error is not None)
        return same_question and all(
            _given(chain, sample.step, searches) == _given(one, sample.step, searches)
            for one in sample.earlier
        )

    if not folder.is_dir():
        return None
    chains = read_chains(folder)
    if sorted(samples) != [chain.id for chain in chains]:
        return None
    return chains if all(fits(chain, samples[chain.id]) for chain in chains) else None
