"""What is asked about a question, and the chains that come of it.

From each *respondent* (a teacher, or a model under evaluation) a question gets one or more first attempts.
From a wrong one may follow a second attempt, after the model's own criticism; and from a first sample whose
attempts are all wrong, one attempt with the gold answer shown. Each is a chain of its own:

    q1                  the first attempt of `build.teacher`
    q1#2                its second sample
    q1@qwen#2           the second sample of the ensemble's `qwen`
    q1@qwen#2:corrected the second attempt that followed from it
    q1:rationalized     the attempt with the answer shown

Plain Python: what runs it on a cluster is `steper_ray.stepwise.chains`.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from steper_ray.errors import InputError, RowError
from steper_ray.evaluation.metrics import accuracy, exact_match, f1
from steper_ray.models import model_identity
from steper_ray.pretrained import DEFAULTS, HubConfig
from steper_ray.reasoning.endpoint import EndpointConfig
from steper_ray.reasoning.engine import EngineConfig
from steper_ray.reasoning.framework import Framework
from steper_ray.reasoning.hints import correction_hint, criticize, rationalization_hint
from steper_ray.reasoning.loop import Engine, Reasoned, Sampling, Searcher, reason
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.identity import Record, asked_identity
from steper_ray.schema import Chain, Question

Kind = Literal["first", "corrected", "rationalized"]
KINDS: Final[tuple[Kind, ...]] = ("first", "corrected", "rationalized")


@dataclass(frozen=True, slots=True)
class Respondent:
    """A model, and how it is asked."""

    model: str
    reasoning: ReasoningConfig
    engine: EngineConfig
    endpoint: EndpointConfig | None = None
    """Where it is asked, if not in engines of our own."""
    name: str = ""
    """What an ensemble calls it; empty for `build.teacher`."""
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    self_correction: bool = False
    rationalization: bool = False
    hub: HubConfig = DEFAULTS
    """How the model, or the tokenizer that counts for an endpoint, is reached."""
    revision: str | None = None
    """Of a model on the Hub; None is its `main`."""

    @property
    def identity(self) -> Record:
        """The model by its content, and how it is asked."""
        model: Record | str = self.model
        if self.endpoint is None:
            model = model_identity(self.model, self.revision, self.hub)
        return asked_identity(
            model,
            self.reasoning,
            endpoint=self.endpoint,
            temperature=self.temperature,
            top_p=self.top_p,
        )

    @property
    def at_once(self) -> int:
        """Requests that one actor makes at a time."""
        return self.endpoint.concurrency if self.endpoint else self.engine.max_num_seqs

    def sampling(self, chain_id: str) -> Sampling:
        """How the tokens of a chain are drawn: the same ones every time it is asked for."""
        if not self.temperature:
            return Sampling()
        seed = int.from_bytes(hashlib.sha256(chain_id.encode()).digest()[:4], "big") >> 1
        return Sampling(self.temperature, self.top_p, seed)


def chain_id(
    respondent: Respondent, question_id: str, sample: int = 1, kind: Kind = "first"
) -> str:
    """The id of a chain of a respondent."""
    by = f"@{respondent.name}" if respondent.name else ""
    number = f"#{sample}" if sample > 1 else ""
    return f"{question_id}{by}{number}" + ("" if kind == "first" else f":{kind}")


def next_kind(
    respondent: Respondent, sample: int, known: Mapping[Kind, float | None]
) -> Kind | None:
    """The attempt to make next for a sample; None if none is missing.

    known: exact match of each that there is, None of one that carries an error
    """
    if "first" not in known:
        return "first"
    if respondent.self_correction and known["first"] == 0.0 and "corrected" not in known:
        return "corrected"
    if respondent.rationalization and sample == 1 and "rationalized" not in known:
        return "rationalized" if all(em == 0.0 for em in known.values()) else None
    return None


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question whose chains of one sample are to be made, or completed."""

    question: Question
    sample: int = 1
    earlier: tuple[Chain, ...] = ()
    """Those there are without an error."""


def find_wanted(
    respondent: Respondent,
    questions: Sequence[Question],
    known: Mapping[str, float | None],
    read: Callable[[Sequence[str]], Iterable[Chain]],
    *,
    again: bool = True,
) -> list[Wanted]:
    """What is left to be asked, in the order of the questions.

    known: id of each chain that there is → its exact match, None where it carries an error
    read:  chains by their ids
    again: whether those with an error are asked for again
    """
    wanted: list[tuple[Question, int, list[str]]] = []
    for question in questions:
        for sample in range(1, respondent.samples + 1):
            ids = {kind: chain_id(respondent, question.id, sample, kind) for kind in KINDS}
            there = {
                kind: known[chain_id]
                for kind, chain_id in ids.items()
                if chain_id in known and not (again and known[chain_id] is None)
            }
            if next_kind(respondent, sample, there) is not None:
                sound = [ids[kind] for kind, em in there.items() if em is not None]
                wanted.append((question, sample, sound))
    chains = {chain.id: chain for chain in read([i for _, _, ids in wanted for i in ids])}
    return [
        Wanted(question, sample, tuple(chains[chain_id] for chain_id in ids))
        for question, sample, ids in wanted
    ]


def make_chain(
    question: Question, reasoned: Reasoned, model: str, corpus_version: str, chain_id: str
) -> Chain:
    """A chain with its verdict against the gold answers."""
    gold = question.gold_answers
    return Chain(
        id=chain_id,
        question_id=question.id,
        question=question.question,
        gold_answers=gold,
        hops=question.hops,
        passages=reasoned.passages,
        steps=reasoned.steps,
        answer=reasoned.answer,
        stop_reason=reasoned.stop_reason,
        em=exact_match(reasoned.answer, gold),
        f1=f1(reasoned.answer, gold),
        acc=accuracy(reasoned.answer, gold),
        model=model,
        corpus_version=corpus_version,
        supporting_ids=question.supporting_ids,
    )


def score_again(chain: Chain, framework: Framework) -> Chain:
    """The chain with its answer read again from its last step, and scored, by the rules of today."""
    if chain.error is not None or not chain.steps:
        return chain
    last = framework.render_target(chain.steps[-1].rationale, forced=chain.forced)
    answer = framework.parse(last, forced=chain.forced).answer
    answer = chain.answer if answer is None else answer
    gold = chain.gold_answers
    return replace(
        chain,
        answer=answer,
        em=exact_match(answer, gold),
        f1=f1(answer, gold),
        acc=accuracy(answer, gold),
    )


async def ask(
    wanted: Wanted,
    *,
    respondent: Respondent,
    engine: Engine,
    searcher: Searcher,
    corpus_version: str,
) -> list[Chain]:
    """The chains of a sample that were not there; one that could not be made carries its error."""
    there = {kind_of(chain): chain for chain in wanted.earlier}
    made: list[Chain] = []
    while (kind := _next(respondent, wanted.sample, there)) is not None:
        attempt_id = chain_id(respondent, wanted.question.id, wanted.sample, kind)
        hint, critique, error = "", None, None
        sampling = respondent.sampling(attempt_id)
        try:
            if kind == "corrected":
                critique = await _critique(there["first"], respondent, engine, sampling)
                hint = correction_hint(there["first"], critique)
            elif kind == "rationalized":
                hint = rationalization_hint(wanted.question.answer)
            reasoned = await reason(
                wanted.question.question,
                engine=engine,
                searcher=searcher,
                config=respondent.reasoning,
                hint=hint,
                sampling=sampling,
            )
        except InputError:  # no question will do better
            raise
        except RowError as failure:
            reasoned, error = Reasoned((), (), (), "", "answered"), str(failure)
        chain = make_chain(wanted.question, reasoned, respondent.model, corpus_version, attempt_id)
        there[kind] = replace(
            chain,
            teacher=respondent.name,
            sample=wanted.sample,
            attempt=2 if kind == "corrected" else 1,
            rationalized=kind == "rationalized",
            critique=critique,
            error=error,
        )
        made.append(there[kind])
    return made


def next_id(wanted: Wanted, respondent: Respondent) -> str:
    """The id of the first chain that `ask` will make."""
    kind = _next(respondent, wanted.sample, {kind_of(chain): chain for chain in wanted.earlier})
    assert kind is not None, "what is wanted is not there"
    return chain_id(respondent, wanted.question.id, wanted.sample, kind)


def _next(respondent: Respondent, sample: int, there: Mapping[Kind, Chain]) -> Kind | None:
    known = {kind: None if c.error is not None else c.em for kind, c in there.items()}
    return next_kind(respondent, sample, known)


def kind_of(chain: Chain) -> Kind:
    """Which of a sample's chains this is."""
    if chain.rationalized:
        return "rationalized"
    return "corrected" if chain.attempt == 2 else "first"


async def _critique(
    chain: Chain, respondent: Respondent, engine: Engine, sampling: Sampling
) -> str:
    written = await criticize(
        chain, engine=engine, settings=respondent.reasoning, sampling=sampling
    )
    return " ".join(written.text.split())
