"""Answers that are there already: used for what was asked alike, and for nothing else. Without Ray."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steper_ray.chains.attempts import MissingAttempts
from steper_ray.chains.stream import _prepare_partial
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.evaluation.abilities import given_steps
from steper_ray.evaluation.answer import kept_answers
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.dependencies import answers_identity
from steper_ray.run.identity import write_record
from steper_ray.schema import Chain
from tests.samples import CHAIN, numbered, write

REASONER = Reasoner(
    "m", ReasoningConfig(), EngineConfig(), EndpointConfig(base_url="http://127.0.0.1:1/v1")
)
CORPUS = {"corpus_version": "c0ffee", "retriever": "bm25"}

Kept = Callable[[list[MissingAttempts]], list[Chain]]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kept:
    """The kept answers of a folder; a question asked would fail."""

    def ask(*_: Any, **__: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("steper_ray.evaluation.answer.answer", ask)
    monkeypatch.setattr("steper_ray.retrieval.corpus_identity", lambda _: CORPUS)
    out = tmp_path / "m"
    record = answers_identity(CORPUS, "", REASONER.identity, REASONER.task)

    def answers(missing: list[MissingAttempts]) -> list[Chain]:
        write_record(out.with_name("m.identity.json"), record)
        return kept_answers(REASONER, missing, out, corpus=tmp_path, log=tmp_path)

    return answers


def test_other_questions_and_other_gold_answers_are_asked(kept: Kept, tmp_path: Path) -> None:
    chains = numbered(range(3))
    write(tmp_path / "m", chains)
    asked = [MissingAttempts(chain.asked) for chain in chains]
    assert kept(asked) == chains
    other = replace(asked[0], question=replace(asked[0].question, answer="Rome"))
    more = replace(asked[0], question=replace(asked[0].question, id="more"))
    for missing in (asked[1:], [*asked, more], [other, *asked[1:]]):
        with pytest.raises(AssertionError, match="asked again"):
            kept(missing)


def test_what_the_data_set_calls_a_question_now_is_taken_over(kept: Kept, tmp_path: Path) -> None:
    chains = numbered(range(2))
    write(tmp_path / "m", chains)
    asked = [MissingAttempts(replace(chain.asked, type="bridge")) for chain in chains]
    assert [chain.type for chain in kept(asked)] == ["bridge", "bridge"]


def test_single_steps_are_kept_while_what_was_given_is_the_same(kept: Kept, tmp_path: Path) -> None:
    given = given_steps([CHAIN])
    written = [
        replace(CHAIN, id="q1:step-1", steps=(*CHAIN.steps[:1], CHAIN.steps[1])),
        replace(CHAIN, id="q1:step-2", steps=CHAIN.steps[:1], error="too long"),
        replace(CHAIN, id="q1:step-3"),
    ]
    write(tmp_path / "m", written)
    assert kept(given) == written, "a step that failed is not asked again"
    first, *rest = CHAIN.steps
    for changed in (
        replace(CHAIN, steps=(replace(first, rationale="It is another."), *rest)),
        replace(CHAIN, steps=(replace(first, passage_ids=("p9",)), *rest)),
    ):
        with pytest.raises(AssertionError, match="asked again"):
            kept([replace(one, earlier=(changed,)) for one in given])


def test_what_an_interrupted_call_wrote_for_others_does_not_count(tmp_path: Path) -> None:
    record = answers_identity(CORPUS, "", REASONER.identity, REASONER.task)
    partial = tmp_path / "m.partial"
    for asked, stays in (("a", False), ("a", True), ("b", False), (None, False), ("b", False)):
        now = record if asked is None else {**record, "asked": asked}
        _prepare_partial(partial, now, ignore=())
        assert (partial / "written").exists() is stays
        (partial / "written").touch()
