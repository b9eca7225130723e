"""Tasks by name, and a tiny one that a test adds: it alone decides what is right."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from steper_ray.chains.asking import ask
from steper_ray.chains.attempts import MissingAttempts, missing_attempts
from steper_ray.chains.scoring import score_again
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import InputError
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks import ircot
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Question
from steper_ray.selection.choice import judge
from steper_ray.selection.rejection import rejection
from steper_ray.selection.settings import SelectConfig
from steper_ray.tasks import TASKS, qa, task_named
from tests.fakes import ScriptedEngine, ScriptedRetriever
from tests.samples import CHAIN


def score(answer: str, question: Question) -> dict[str, float]:
    """How near a number is to the gold number, in [0, 1]."""
    near = 1 / (1 + abs(float(answer) - float(question.answer)))
    return {"em": float(near == 1), "f1": near, "acc": near, "right": float(near >= 0.5)}


NUMBERS = SimpleNamespace(score=score)
TEN = Question("q1", "How many?", "10")


@pytest.fixture(autouse=True)
def numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "numbers", NUMBERS)


def test_an_unknown_task_is_refused_with_the_nearest() -> None:
    assert task_named("qa") is qa
    with pytest.raises(InputError, match=r"questions\.task: .*'numbres'; did you mean numbers\?"):
        task_named("numbres")


@pytest.mark.parametrize(("answer", "attempts"), [("11", 1), ("12", 2)])
def test_the_task_decides_on_attempts_and_selection(answer: str, attempts: int) -> None:
    """11 is near enough and is not corrected, though it is no exact match; 12 is corrected."""
    reasoner = Reasoner(
        "m",
        complete_reasoning(ReasoningConfig(max_steps=1)),
        EngineConfig(),
        self_correction=True,
        task="numbers",
    )
    engine = ScriptedEngine(f" {answer}.", "Too many.", " 10.")
    asked = ask(
        MissingAttempts(TEN), reasoner=reasoner, engine=engine, retriever=ScriptedRetriever()
    )
    chains = asyncio.run(asked)
    assert len(chains) == attempts
    first = chains[0]
    assert (first.answer, first.em) == (answer, 0.0)
    assert first.f1 == pytest.approx(1 / (1 + int(answer) - 10))

    right = attempts == 1
    known = {first.id: first.right == 1.0}
    assert bool(missing_attempts(reasoner, [TEN], known, lambda _ids: [first])) != right
    verdict = rejection(first, SelectConfig(grounded=False), ircot)
    assert verdict == (None if right else "wrong_answer")
    assert rejection(first, SelectConfig(grounded=False, match="em"), ircot) == "wrong_answer"
    assert (judge(first, SelectConfig(), ircot).answer == answer) != right


def test_chains_are_scored_again_by_their_task() -> None:
    said = replace(CHAIN.steps[-1], rationale="So the answer is: 12.")
    chain = replace(CHAIN, gold_answers=("10",), steps=(said,), answer="12", f1=0.0)
    assert score_again(chain, ircot, NUMBERS).f1 == pytest.approx(1 / 3)
    assert score_again(chain, ircot, qa).f1 == 0.0
