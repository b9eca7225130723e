"""What is asked about a question, with a fake engine and a fake retriever handed in."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from steper_ray.chains.asking import ask
from steper_ray.chains.attempts import MissingAttempts, missing_attempts, next_id
from steper_ray.chains.scoring import score_again
from steper_ray.chains.teachers import Reasoner
from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import RowError
from steper_ray.reasoning.demonstrations import read_demonstrations
from steper_ray.reasoning.frameworks import FRAMEWORKS
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.retrieval.protocol import Hit
from steper_ray.schema import Chain, Passage, Question
from steper_ray.selection.choice import select
from steper_ray.selection.examples import step_examples
from steper_ray.selection.settings import SelectConfig
from steper_ray.tasks import qa
from tests.samples import CHAIN

QUESTION = Question("q1", "Where is it?", "Rome", ("Roma",))
RIGHT, WRONG = " It is there. So the answer is: Roma.", " It is here. So the answer is: Milan."
CRITICISM = "The first step takes the wrong town."


class Engine:
    """Writes what it is told, and remembers what it was asked, and how."""

    def __init__(self, *texts: str | Exception) -> None:
        self.texts = list(texts)
        self.prompts: list[Prompt] = []
        self.drawn: list[Sampling] = []

    def count_tokens(self, prompt: Prompt) -> int:
        return self.count_text(prompt.text)

    def count_text(self, text: str) -> int:
        return len(text.split())

    async def generate(
        self,
        prompt: Prompt,
        *,
        stop: Sequence[str],
        max_tokens: int,
        sampling: Sampling = GREEDY,
    ) -> Generation:
        self.prompts.append(prompt)
        self.drawn.append(sampling)
        text = self.texts.pop(0)
        if isinstance(text, Exception):
            raise text
        return Generation(text, self.count_tokens(prompt), 4, -2.0)


class Retriever:
    """Finds one passage, always."""

    version = "c0ffee"

    async def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        hit = Hit(Passage("p1", "Towns", "It is here. It is there."), 1.0)
        return [[hit] for _ in queries]


def asked(
    *texts: str | Exception, missing: MissingAttempts | None = None, **how: Any
) -> tuple[list[Chain], Engine]:
    engine = Engine(*texts)
    reasoner = replace(Reasoner("m", ReasoningConfig(), EngineConfig()), **how)
    chains = asyncio.run(
        ask(
            missing or MissingAttempts(QUESTION),
            reasoner=reasoner,
            engine=engine,
            retriever=Retriever(),
        )
    )
    assert not engine.texts, "not all was asked for"
    return chains, engine


def test_a_right_answer_is_not_asked_for_again() -> None:
    (chain,), _ = asked(RIGHT, self_correction=True, rationalization=True)
    assert (chain.id, chain.em, chain.attempt, chain.rationalized) == ("q1", 1.0, 1, False)


def test_a_wrong_one_is_criticized_and_tried_again_without_the_gold_answer() -> None:
    (first, second), engine = asked(WRONG, f" {CRITICISM}", RIGHT, self_correction=True)
    assert [(c.id, c.attempt, c.em) for c in (first, second)] == [
        ("q1", 1, 0.0),
        ("q1:corrected", 2, 1.0),
    ]
    assert (first.critique, second.critique) == (None, CRITICISM)
    _, critique, again = (prompt.text for prompt in engine.prompts)
    assert "It is here. So the answer is: Milan." in critique
    assert critique.endswith("Criticism:")
    for text in ("So the answer is: Milan.", CRITICISM, "Title: Towns"):
        assert text in again
    assert again.index(CRITICISM) < again.index("Title: Towns") < again.index("Question: Where")
    assert "Rom" not in critique + again
    # The student learns from the second attempt, and never sees that it was one.
    assert select([first, second], SelectConfig(), FRAMEWORKS["ircot"]) == {
        "q1": "wrong_answer",
        "q1:corrected": None,
    }
    (example,) = step_examples(second, ReasoningConfig())
    assert "Milan" not in example.prompt


def test_the_gold_answer_is_shown_only_where_all_else_was_wrong() -> None:
    chains, engine = asked(
        WRONG, CRITICISM, WRONG, RIGHT, self_correction=True, rationalization=True
    )
    assert [chain.id for chain in chains] == ["q1", "q1:corrected", "q1:rationalized"]
    assert [chain.rationalized for chain in chains] == [False, False, True]
    assert "known to be: Rome\n" in engine.prompts[-1].text
    assert not any("Rom" in prompt.text for prompt in engine.prompts[:-1])
    (chain,), _ = asked(
        WRONG, missing=MissingAttempts(QUESTION, 2), samples=2, rationalization=True
    )
    assert chain.id == "q1#2"


def test_a_failure_ends_what_would_follow_from_it() -> None:
    (chain,), _ = asked(RowError("too long"), self_correction=True, rationalization=True)
    assert (chain.error, chain.em, chain.steps) == ("too long", 0.0, ())
    first, second = asked(WRONG, CRITICISM, RowError("broken"), self_correction=True)[0]
    assert (first.error, second.error, second.critique) == (None, "broken", CRITICISM)


def test_what_is_there_is_not_made_again() -> None:
    (first, _), _ = asked(WRONG, CRITICISM, RIGHT, self_correction=True)
    missing = MissingAttempts(QUESTION, earlier=(first,))
    (second,), engine = asked(CRITICISM, RIGHT, missing=missing, self_correction=True)
    assert second.id == "q1:corrected"
    assert "So the answer is: Milan." in engine.prompts[0].text


def test_every_sample_is_drawn_anew_and_always_the_same() -> None:
    def seeds(sample: int, name: str = "") -> list[Sampling]:
        missing = MissingAttempts(QUESTION, sample)
        return asked(" One.", RIGHT, missing=missing, name=name, samples=2, temperature=0.7)[
            1
        ].drawn

    one, two, other = seeds(1), seeds(2), seeds(1, "b")
    assert one == seeds(1)
    drawn = [sampling.seed for sampling in (*one, *two, *other)]
    assert len(set(drawn)) == 6
    assert {sampling.temperature for sampling in one} == {0.7}
    assert asked(RIGHT)[1].drawn == [Sampling(0.0, 1.0, None)]


@pytest.mark.parametrize(
    ("known", "how", "left"),
    [
        ({}, {}, ["q1"]),
        ({"q1": 0.0}, {}, []),
        ({"q1": None}, {}, ["q1"]),
        ({"q1": 1.0}, {"samples": 3}, ["q1#2", "q1#3"]),
        ({"q1": 1.0}, {"name": "b"}, ["q1@b"]),
        ({"q1@b": 1.0}, {"name": "b", "samples": 2}, ["q1@b#2"]),
        ({"q1": 0.0}, {"self_correction": True}, ["q1:corrected"]),
        ({"q1": 1.0}, {"self_correction": True, "rationalization": True}, []),
        ({"q1": 0.0, "q1:corrected": 0.0}, {"self_correction": True}, []),
        ({"q1": 0.0, "q1:corrected": None}, {"self_correction": True}, ["q1:corrected"]),
        ({"q1": 0.0, "q1:corrected": 0.0}, {"self_correction": True, "rationalization": True},
         ["q1:rationalized"]),
        ({"q1": 0.0, "q1:corrected": 1.0}, {"rationalization": True}, []),
        ({"q1": 0.0, "q1#2": 0.0}, {"samples": 2, "rationalization": True}, ["q1:rationalized"]),
    ],
)  # fmt: skip
def test_what_is_left_to_be_asked(
    known: dict[str, Any], how: dict[str, Any], left: list[str]
) -> None:
    reasoner = replace(Reasoner("m", ReasoningConfig(), EngineConfig()), **how)
    (chain,), _ = asked(WRONG)

    def read(ids: Sequence[str]) -> list[Chain]:
        assert all(known[chain_id] is not None for chain_id in ids)
        return [
            replace(
                chain,
                id=chain_id,
                right=known[chain_id],
                attempt=2 if chain_id.endswith(":corrected") else 1,
            )
            for chain_id in ids
        ]

    right = {i: em if em is None else em == 1.0 for i, em in known.items()}
    missing = missing_attempts(reasoner, [QUESTION], right, read)
    assert [next_id(one, reasoner) for one in missing] == left
    if None in known.values():
        assert missing_attempts(reasoner, [QUESTION], right, read, retry_errors=False) == []


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_chain_scored_again_by_the_same_rules_is_the_same(name: str) -> None:
    framework = FRAMEWORKS[name]
    shown = read_demonstrations("bundled", name, framework)[0]
    for text, forced in ((shown.steps[-1].text, False), (" Neill.", True), ("It is Neill", True)):
        written = framework.parse(text, forced=forced)
        assert written.answer is not None
        chain = replace(
            CHAIN,
            answer=written.answer,
            steps=(replace(CHAIN.steps[-1], rationale=written.rationale),),
            stop_reason="forced" if forced else "answered",
            em=0.5,
        )
        again = score_again(chain, framework, qa)
        assert again.answer == written.answer
        assert again.em == float(written.answer == "Neill")
    failed = replace(CHAIN, error="refused", em=0.5)
    assert score_again(failed, framework, qa) is failed


@pytest.mark.parametrize(
    ("name", "rationale", "stop_reason"),
    [
        ("ircot", "**So the answer is: Neill**", "answered"),
        ("ircot", "So the answer is: Neill. Let me know if you have questions!", "answered"),
        ("ircot", "So the answer is: Neill (the mayor of Old Harbour)", "forced"),
        ("ircot", "So the answer is: So the answer is: Neill", "nothing_new"),
        ("self_ask", "So the final answer is: **Neill**.", "forced"),
        ("react", "Hm.\nAction: Finish[`Neill`.]", "answered"),
        ("ircot", "So the answer is: Neill.", "forced"),
    ],
)
def test_a_chain_of_an_earlier_rule_gets_the_answer_that_is_read_now(
    name: str, rationale: str, stop_reason: Any
) -> None:
    last = replace(CHAIN.steps[-1], rationale=rationale)
    chain = replace(
        CHAIN,
        steps=(last,),
        stop_reason=stop_reason,
        answer=rationale,
        em=0.0,
        right=0.0,
        f1=0.0,
        acc=0.0,
    )
    again = score_again(chain, FRAMEWORKS[name], qa)
    assert (again.answer, again.em) == ("Neill", 1.0)
    assert again.steps == (last,)  # what it was made of stays


def test_a_single_step_is_written_after_what_was_given_and_searched_with() -> None:
    missing = MissingAttempts(QUESTION, earlier=(CHAIN,), step=2)
    (chain,), engine = asked(" Kek Bibro praised Rome.", missing=missing)
    (prompt,) = engine.prompts
    assert "Zalk Stumum presents Kek Bibro." in prompt.text  # the first step, and its passage
    assert "It ran for a long season." in prompt.text
    assert "It owns seven trucks." in prompt.text
    assert "its 12th mayor" not in prompt.text, "the passage of the third step"
    first, second, search = chain.steps
    assert first == CHAIN.steps[0]
    assert (second.rationale, second.passage_ids) == ("Kek Bibro praised Rome.", ("p2",))
    assert (search.query, search.passage_ids, search.rationale) == (second.rationale, (), "")
    assert [passage.id for passage in chain.passages] == ["p1", "p2"]  # p1 is found again
    assert (chain.id, chain.question_id, chain.answer, chain.right) == ("q1:step-2", "q1", "", 0.0)

    missing = replace(missing, step=3)
    (chain,), engine = asked(RIGHT, missing=missing)
    assert "its 12th mayor" in engine.prompts[0].text
    assert (chain.answer, chain.right, len(chain.steps)) == ("Roma", 1.0, 3)
    (chain,), _ = asked(RowError("too long"), missing=missing)
    assert (chain.error, chain.steps) == ("too long", CHAIN.steps[:2])


def test_the_last_step_of_a_chain_that_was_asked_outright_is_asked_outright() -> None:
    forced = replace(CHAIN, stop_reason="forced")
    (chain,), engine = asked(" Roma.", missing=MissingAttempts(QUESTION, earlier=(forced,), step=3))
    assert engine.prompts[0].text.rstrip().endswith("So the answer is:")
    assert chain.answer == "Roma"
