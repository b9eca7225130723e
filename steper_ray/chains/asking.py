"""Running one sample's attempts at a question → chains with their scores. Plain Python, without Ray.

A question gets one first attempt a sample from each reasoner. A wrong first attempt may be followed by a
corrected one, after the model's own criticism; if all attempts of the first sample are wrong, one more may
follow, with the gold answer shown.
"""

from dataclasses import replace

from steper_ray.chains.attempts import (
    MissingAttempts,
    chain_id,
    kind_of,
    missing_kind,
    next_id,
)
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.protocol import Engine, Sampling
from steper_ray.errors import InputError, RowError
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.hints import correction_hint, criticize, rationalization_hint
from steper_ray.reasoning.loop import Trajectory, reason, write_step
from steper_ray.reasoning.prompts import split_searches
from steper_ray.retrieval.protocol import Retriever
from steper_ray.schema import Chain, Question, Step
from steper_ray.tasks import task_named
from steper_ray.tasks.protocol import Task
from steper_ray.text import squeeze


def make_chain(
    question: Question,
    reasoned: Trajectory,
    model: str,
    corpus_version: str,
    chain_id: str,
    task: Task,
) -> Chain:
    """A chain from a trajectory, scored by the task."""
    scores = task.score(reasoned.answer, question)
    return Chain(
        id=chain_id,
        question_id=question.id,
        question=question.question,
        gold_answers=question.gold_answers,
        hops=question.hops,
        type=question.type,
        passages=reasoned.passages,
        steps=reasoned.steps,
        answer=reasoned.answer,
        stop_reason=reasoned.stop_reason,
        em=scores["em"],
        f1=scores["f1"],
        acc=scores["acc"],
        right=scores["right"],
        model=model,
        corpus_version=corpus_version,
        supporting_ids=question.supporting_ids,
    )


async def ask(
    missing: MissingAttempts,
    *,
    reasoner: Reasoner,
    engine: Engine,
    retriever: Retriever,
) -> list[Chain]:
    """Make the missing chains of a sample; a chain that could not be made carries its error."""
    if missing.step:
        return [await _ask_step(missing, reasoner, engine, retriever)]
    chains = {kind_of(chain): chain for chain in missing.earlier}
    made: list[Chain] = []
    while (kind := missing_kind(reasoner, missing.sample, chains)) is not None:
        attempt_id = chain_id(reasoner, missing.question.id, missing.sample, kind)
        hint, critique, error = "", None, None
        sampling = reasoner.sampling(attempt_id)
        try:
            if kind == "corrected":
                critique = await _critique(chains["first"], reasoner, engine, sampling)
                hint = correction_hint(chains["first"], critique)
            elif kind == "rationalized":
                hint = rationalization_hint(missing.question.answer)
            reasoned = await reason(
                missing.question.question,
                engine=engine,
                retriever=retriever,
                config=reasoner.reasoning,
                hint=hint,
                sampling=sampling,
            )
        except InputError:  # every other question would fail in the same way
            raise
        except RowError as failure:
            reasoned, error = Trajectory((), (), (), "", "answered"), str(failure)
        chain = make_chain(
            missing.question,
            reasoned,
            reasoner.model,
            retriever.version,
            attempt_id,
            task_named(reasoner.task),
        )
        chains[kind] = replace(
            chain,
            teacher=reasoner.name,
            sample=missing.sample,
            attempt=2 if kind == "corrected" else 1,
            rationalized=kind == "rationalized",
            critique=critique,
            error=error,
        )
        made.append(chains[kind])
    return made


async def _ask_step(
    missing: MissingAttempts, reasoner: Reasoner, engine: Engine, retriever: Retriever
) -> Chain:
    """The given chain up to a step, with that step written anew.

    Where it gives no answer, a step without a text follows, with the search that it asks for.
    """
    (given,) = missing.earlier
    before, old = given.steps[: missing.step - 1], given.steps[missing.step - 1]
    config = complete_reasoning(reasoner.reasoning)
    counts = [len(step.passage_ids) for step in (*before, old)]
    passages, steps, answer, error = given.passages[: sum(counts)], before, "", None
    try:
        step, read = await write_step(
            given.question,
            split_searches(passages, counts),
            [one.rationale for one in before],
            engine=engine,
            config=config,
            forced=given.answer_forced and missing.step == len(given.steps),
        )
        steps = (*before, replace(step, query=old.query))
        answer = read.answer or ""
        if read.answer is None and read.query:
            (hits,) = await retriever.search([read.query], config.passages_per_step)
            seen = {passage.id for passage in passages}
            new = tuple(hit.passage for hit in hits if hit.passage.id not in seen)
            passages = (*passages, *new)
            ids = tuple(passage.id for passage in new)
            steps = (*steps, Step(read.query, ids, "", None, 0, 0))
    except InputError:  # every other question would fail in the same way
        raise
    except RowError as failure:
        error = str(failure)
    chain = make_chain(
        missing.question,
        Trajectory(passages, (), steps, answer, given.stop_reason),
        reasoner.model,
        retriever.version,
        next_id(missing, reasoner),
        task_named(reasoner.task),
    )
    return replace(chain, error=error)


async def _critique(chain: Chain, reasoner: Reasoner, engine: Engine, sampling: Sampling) -> str:
    """The model's criticism of its own chain, in one line."""
    written = await criticize(chain, engine=engine, settings=reasoner.reasoning, sampling=sampling)
    return squeeze(written.text)
