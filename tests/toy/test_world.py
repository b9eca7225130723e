"""The toy world: the same for a seed, another for another, and multi-step is needed."""

import random
from itertools import pairwise

from steper_ray.retrieval import open_retriever
from steper_ray.run.config import RunConfig
from steper_ray.toy.asking import render_prompt
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.toy.world import make_world, vocabulary
from tests.fakes import hits_of

SPLITS = {"train": 2400, "dev": 300, "test": 300}


def test_a_seed_gives_one_world_and_another_seed_another() -> None:
    first, again, other = make_world(0), make_world(0), make_world(1)
    assert first == again
    assert first.passages() == again.passages()
    assert first.questions(SPLITS) == again.questions(SPLITS)
    texts = {p.text for p in first.passages()}
    shared = sum(p.text in texts for p in other.passages())
    assert shared == 0
    names = {e.name for e in first.entities}
    assert sum(e.name in names for e in other.entities) < 0.35 * len(names)


def test_sizes_hops_and_supporting_passages() -> None:
    world = make_world(0)
    passages = {p.id: p for p in world.passages()}
    questions = world.questions(SPLITS)
    assert len(passages) >= 5000
    assert sum(map(len, questions.values())) >= 3000
    assert len({e.name for e in world.entities}) == len(world.entities)
    for rows in questions.values():
        for hops in (2, 3, 4):
            assert sum(q.hops == hops for q in rows) == len(rows) // 3
        for question in rows:
            support = [passages[i] for i in question.supporting_ids]
            assert len(support) == question.hops
            assert support[0].title in question.question
            assert question.answer in support[-1].text
            for before, after in pairwise(support):
                assert after.title in before.text
            assert all(p.title not in question.question for p in support[1:])
            assert question.answer not in question.question


def test_splits_share_no_two_consecutive_facts() -> None:
    owner: dict[object, str] = {}
    chains = list(make_world(0).chains(SPLITS))
    assert len({chain for _, chain in chains}) == len(chains) == 3000
    for split, chain in chains:
        for pair in pairwise(chain):
            assert owner.setdefault(pair, split) == split


def test_one_search_is_not_enough_and_searching_again_is(toy_corpus: RunConfig) -> None:
    retriever = open_retriever(toy_corpus.folder.corpus)
    k = toy_corpus.reasoning.passages_per_step
    world = make_world(toy_corpus.toy.seed)
    once = again = asked = 0
    for _, chain in world.chains({"dev": 300}):
        question = world.question("q", chain)
        support = set(question.supporting_ids)
        found = {hit.passage.id for hit in hits_of(retriever, question.question, k)}
        once += support <= found
        for fact in chain[:-1]:
            found |= {hit.passage.id for hit in hits_of(retriever, world.sentence(fact), k)}
        again += support <= found
        asked += 1
    assert once / asked < 0.20
    assert again / asked > 0.90


def test_every_word_of_a_world_is_one_token_and_any_text_survives() -> None:
    tokenizer = make_tokenizer()
    assert len(set(vocabulary())) == len(vocabulary())
    world = make_world(7)
    chain = world.random_chain(random.Random(0), 4)
    prompt = render_prompt(
        world.question_text(chain),
        [world.passage(fact.subject) for fact in chain],
        [world.sentence(fact) for fact in chain],
    )
    tokens = tokenizer.tokenize(prompt)
    assert not [t for t in tokens if len(t) == 1 and t.isascii() and t.isalpha()]
    for text in (prompt, 'naïve 🙂 "q": [a]\n\n  b\t', "", "Zyx\x00"):
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
