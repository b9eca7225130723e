"""One attempt at a question → a chain with its scores. Plain Python, without Ray.

A question gets one or more first attempts from each reasoner. A wrong one may be followed by a corrected
attempt, after the model's own criticism; a first sample whose attempts are all wrong may be followed by one
with the gold answer shown.
"""

from dataclasses import replace

from steper_ray.chains.attempts import MissingAttempts, chain_id, kind_of, missing_kind
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.protocol import Engine, Sampling
from steper_ray.errors import InputError, RowError
from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.reasoning.hints import correction_hint, criticize, rationalization_hint
from steper_ray.reasoning.loop import Trajectory, reason
from steper_ray.retrieval.protocol import Retriever
from steper_ray.schema import Chain, Question
from steper_ray.tasks import task_named
from steper_ray.tasks.protocol import Task


def make_chain(
    question: Question,
    reasoned: Trajectory,
    model: str,
    corpus_version: str,
    chain_id: str,
    task: Task,
) -> Chain:
    """A chain with its scores."""
    scores = task.score(reasoned.answer, question)
    return Chain(
        id=chain_id,
        question_id=question.id,
        question=question.question,
        gold_answers=question.gold_answers,
        hops=question.hops,
        passages=reasoned.passages,
        steps=reasoned.steps,
        answer=reasoned.answer,
        stop_reason=reasoned.stop_reason,
        em=scores["em"],
        f1=scores["f1"],
        acc=scores["acc"],
        model=model,
        corpus_version=corpus_version,
        supporting_ids=question.supporting_ids,
    )


def score_again(chain: Chain, framework: Framework, task: Task) -> Chain:
    """The chain with its answer read again from its last step, and scored, by the rules of today."""
    if chain.error is not None or not chain.steps:
        return chain
    last = framework.render_target(chain.steps[-1].rationale, forced=chain.forced)
    answer = framework.parse(last, forced=chain.forced).answer
    answer = chain.answer if answer is None else answer
    gold, *aliases = chain.gold_answers
    question = Question(
        chain.question_id, chain.question, gold, tuple(aliases), chain.supporting_ids, chain.hops
    )
    scores = task.score(answer, question)
    return replace(chain, answer=answer, em=scores["em"], f1=scores["f1"], acc=scores["acc"])


async def ask(
    wanted: MissingAttempts,
    *,
    reasoner: Reasoner,
    engine: Engine,
    retriever: Retriever,
) -> list[Chain]:
    """The chains of a sample that were not there; one that could not be made carries its error."""
    there = {kind_of(chain): chain for chain in wanted.earlier}
    made: list[Chain] = []
    while (kind := missing_kind(reasoner, wanted.sample, there)) is not None:
        attempt_id = chain_id(reasoner, wanted.question.id, wanted.sample, kind)
        hint, critique, error = "", None, None
        sampling = reasoner.sampling(attempt_id)
        try:
            if kind == "corrected":
                critique = await _critique(there["first"], reasoner, engine, sampling)
                hint = correction_hint(there["first"], critique)
            elif kind == "rationalized":
                hint = rationalization_hint(wanted.question.answer)
            reasoned = await reason(
                wanted.question.question,
                engine=engine,
                retriever=retriever,
                config=reasoner.reasoning,
                hint=hint,
                sampling=sampling,
            )
        except InputError:  # no question will do better
            raise
        except RowError as failure:
            reasoned, error = Trajectory((), (), (), "", "answered"), str(failure)
        chain = make_chain(
            wanted.question,
            reasoned,
            reasoner.model,
            retriever.version,
            attempt_id,
            task_named(reasoner.task),
        )
        there[kind] = replace(
            chain,
            teacher=reasoner.name,
            sample=wanted.sample,
            attempt=2 if kind == "corrected" else 1,
            rationalized=kind == "rationalized",
            critique=critique,
            error=error,
        )
        made.append(there[kind])
    return made


async def _critique(chain: Chain, reasoner: Reasoner, engine: Engine, sampling: Sampling) -> str:
    written = await criticize(chain, engine=engine, settings=reasoner.reasoning, sampling=sampling)
    return " ".join(written.text.split())
