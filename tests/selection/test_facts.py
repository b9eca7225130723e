"""Steps that state something, and plans that do not, by hand; no right chain is taken for a plan."""

from dataclasses import replace

import pytest

from steper_ray.reasoning.demonstrations import read_demonstrations
from steper_ray.reasoning.frameworks import FRAMEWORKS, ircot, react, self_ask
from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.schema import Chain, Passage
from steper_ray.selection.facts import states_nothing, words
from steper_ray.toy.pretrain_rows import rationales
from steper_ray.toy.world import make_world
from tests.data.published_rows import hotpotqa_rows
from tests.samples import CHAIN, step

QUESTION = "In which valley was the composer of The Glass Ferry born?"
PASSAGES = (
    Passage("p1", "The Glass Ferry", "The Glass Ferry is an opera by Orla Venn, first given in 1911."),
    Passage("p2", "Orla Venn", "Orla Venn was born in the Tamsel Valley, says this information."),
)  # fmt: skip
LAST = "So the answer is: the Tamsel Valley."


def chain_of(
    *said: str, question: str = QUESTION, passages: tuple[Passage, ...] = PASSAGES
) -> Chain:
    """A chain whose steps say this; each search brings one passage."""
    brought = [passage.id for passage in passages] + [""] * len(said)
    steps = tuple(
        step(text, *([found] if found else [])) for text, found in zip(said, brought, strict=False)
    )
    return replace(CHAIN, question=question, passages=passages, steps=steps)


def nothing(chain: Chain, code: Framework = ircot) -> bool:
    before = [code.parse(one.rationale, forced=False) for one in chain.steps[:-1]]
    return states_nothing(chain, before)


@pytest.mark.parametrize(
    "plan",
    [
        "Identify the relevant information from the passages.",
        "First, we need to find the composer of The Glass Ferry.",
        "Determine in which valley the composer was born.",
        "The question asks for the valley.",
        "I will look for the composer.",
        "",
    ],
)
def test_plans_and_repetitions_state_nothing(plan: str) -> None:
    assert nothing(chain_of(plan, LAST))
    assert nothing(chain_of(plan, plan, LAST))
    assert not nothing(chain_of(plan, "Orla Venn composed it.", LAST))


@pytest.mark.parametrize(
    "fact",
    [
        "The Glass Ferry was composed by Orla Venn.",  # a name
        "It is by Ludwig.",  # a name, though of no passage
        "The Glass Ferry is an opera.",  # a word of a passage
        "The Glass Ferry was given 7 times.",  # a number
        "the glass ferry is by orla venn",
    ],
)
def test_facts_state_something(fact: str) -> None:
    assert not nothing(chain_of(fact, LAST))


def test_a_word_that_no_passage_has_states_nothing() -> None:
    assert nothing(chain_of("The valley is somewhere lovely.", LAST))
    assert not nothing(chain_of("The valley is somewhere lovely.", LAST, passages=()))
    assert nothing(chain_of("Identify the relevant information.", LAST, passages=()))


def test_what_is_found_later_is_not_seen_yet() -> None:
    assert nothing(chain_of("The composer says so.", LAST))
    assert not nothing(chain_of("Identify it.", "The composer says so.", LAST))


def test_a_chain_of_one_step_has_none_before_the_last() -> None:
    assert not nothing(chain_of(LAST))


@pytest.mark.parametrize(
    ("question", "text", "plan", "fact"),
    [
        (
            "玻璃渡轮的作曲家出生在哪里？",
            "奥拉·文恩是一位作曲家和管风琴家。",
            "找作曲家的信息。",
            "作曲家是奥拉·文恩。",
        ),
        (
            "ガラスの渡し船の作曲家はどこで生まれましたか？",
            "作曲家はオルラ・ベンである。",
            "作曲家をさがします。",
            "作曲家はオルラ・ベンです。",
        ),
        (
            "유리 나룻배의 작곡가는 어디에서 태어났습니까?",
            "작곡가는 오를라 벤이다.",
            "작곡가는 어디에서 찾을까.",
            "작곡가는 오를라 벤.",
        ),
        (
            "ผู้แต่งเรือแก้วเกิดที่ไหน",
            "ผู้แต่งคือออร์ลา เวนน์",
            "ผู้แต่งเกิดที่ไหน",
            "ผู้แต่งคือออร์ลา",
        ),
        (
            "Où est né le compositeur du Bac de verre ?",
            "Le compositeur est Orla Venn.",
            "Le compositeur est né où ?",
            "Le compositeur est Orla Venn.",
        ),
        (
            "أين ولد ملحن العبارة الزجاجية؟",
            "الملحن هو أورلا فين.",
            "أين ولد ملحن العبارة",
            "الملحن هو أورلا فين.",
        ),
    ],
)
def test_any_language(question: str, text: str, plan: str, fact: str) -> None:
    passages = (Passage("p1", "", text),)
    assert nothing(chain_of(plan, LAST, question=question, passages=passages))
    assert not nothing(chain_of(fact, LAST, question=question, passages=passages))


def test_words_by_hand() -> None:
    assert words("Beyoncé's 2nd song") == {"beyonce", "s", "2nd", "song"}
    assert words("東京は都") == {"東京", "京は", "は都"}
    assert words("です。東") == {"東"}


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_no_bundled_demonstration_states_nothing(name: str) -> None:
    for shown in read_demonstrations("bundled", name, FRAMEWORKS[name]):
        passages = [
            [Passage(f"{number}{p.title}", p.title, p.text) for p in one.passages]
            for number, one in enumerate(shown.steps)
        ]
        chain = replace(
            CHAIN,
            question=shown.question,
            passages=tuple(p for found in passages for p in found),
            steps=tuple(
                step(one.text, *(p.id for p in found))
                for one, found in zip(shown.steps, passages, strict=True)
            ),
        )
        assert not nothing(chain, FRAMEWORKS[name])


def test_no_right_chain_of_the_toy_states_nothing() -> None:
    world = make_world(0, 0.2)
    for _, facts in world.chains({"train": 200}):
        found = tuple(world.passage(fact.subject) for fact in facts)
        question = world.question_text(facts)
        assert not nothing(chain_of(*rationales(world, facts), question=question, passages=found))


def test_no_supporting_sentence_of_hotpotqa_states_nothing() -> None:
    """Its first supporting sentence as the first step; three that the question repeats in other order."""
    plans = 0
    for row in hotpotqa_rows():
        texts = dict(row["context"])
        title, number = row["supporting_facts"][0]
        passage = Passage("p1", title, "".join(texts[title]))
        said = texts[title][number]
        plans += nothing(chain_of(said, LAST, question=row["question"], passages=(passage,)))
    assert plans == 0


@pytest.mark.parametrize(
    ("code", "ask", "known"),
    [
        (self_ask, "Yes.\nFollow up: Who is the composer of The Glass Ferry?", "Unknown."),
        (react, "I need the composer.\nAction: Search[The Glass Ferry composer]", "I see."),
    ],
)
def test_the_first_of_steps_that_ask_has_nothing_to_state(
    code: Framework, ask: str, known: str
) -> None:
    assert not nothing(chain_of(ask, LAST), code)
    again = ask.replace("Yes.", known).replace("I need the composer.", known)
    assert nothing(chain_of(ask, again, LAST), code)
    assert not nothing(chain_of(ask, again.replace(known, "Orla Venn."), LAST), code)
