"""Training rows of the bundled models: trunks of passages with questions branching off.

A row is a *trunk* of passages and several *branches*, each a question with its reasoning: a branch sees its
part of the trunk and itself, so all branches of a row share the cost of the passages.
"""

import random
from dataclasses import dataclass

from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG
from steper_ray.schema import Passage
from steper_ray.toy.world import Fact, World


@dataclass(frozen=True, slots=True)
class Branch:
    """One step of a question, over the first `visible` passages of the trunk."""

    question: str
    reasoning: tuple[str, ...]
    """The true rationales up to and with the one to be learned."""
    visible: int


@dataclass(frozen=True, slots=True)
class Row:
    """A trunk of passages with its branches."""

    passages: tuple[Passage, ...]
    branches: tuple[Branch, ...]


def rationales(world: World, chain: tuple[Fact, ...]) -> tuple[str, ...]:
    """The true reasoning of a chain, the last sentence with the answer."""
    sentences = [world.sentence(fact) for fact in chain]
    sentences[-1] += f" {ANSWER_FLAG} {world.entities[chain[-1].object].name}."
    return tuple(sentences)


class Searches:
    """Likely results of searches in one world: the entity itself, and another that shares its name."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self._kinds: dict[str, list[int]] = {}
        self._families: dict[str, list[int]] = {}
        for number, entity in enumerate(world.entities):
            self._kinds.setdefault(entity.kind, []).append(number)
            self._families.setdefault(entity.name.split()[1], []).append(number)

    def peer(self, entity: int) -> int:
        """Any entity of the same kind."""
        return self.rng.choice(self._kinds[self.world.entities[entity].kind])

    def namesake(self, entity: int) -> int:
        """An entity with the same family part; the entity itself if there is no other."""
        return self.rng.choice(self._families[self.world.entities[entity].name.split()[1]])


def look_up_row(searches: Searches) -> Row:
    """Row of single look-ups: passages in no order, each asked for its facts.

    Other passages state the same kind of fact or share a name, so only name and verb together tell which
    fact is meant.
    """
    world, rng = searches.world, searches.rng
    order: list[int] = []
    for _ in range(rng.randint(1, 2)):
        entity = rng.randrange(len(world.entities))
        other = searches.peer(entity) if rng.random() < 0.75 else searches.namesake(entity)
        order += [entity, other]
    order = list(dict.fromkeys(order))
    rng.shuffle(order)
    branches = []
    for _ in range(10):
        index = rng.randrange(len(order))
        chain = (rng.choice(world.entities[order[index]].facts),)
        visible = rng.randint(index + 1, len(order))
        branches.append(Branch(world.question_text(chain), rationales(world, chain), visible))
    return Row(tuple(world.passage(entity) for entity in order), tuple(dict.fromkeys(branches)))


def chain_row(searches: Searches, hops: int, max_hops: int) -> Row:
    """Row of a chain: its passages in the order in which the loop's searches bring them, and its steps.

    The question's search brings the first entity and one that shares its name, each later one the
    next entity. A step sees what the searches before it brought and seldom more: were the next
    passage in sight, its title would give the answer away. No question has more than `max_hops` hops.
    """
    world, rng = searches.world, searches.rng
    chain = world.random_chain(rng, hops)
    order = [chain[0].subject, searches.namesake(chain[0].subject)]
    for fact in chain[1:]:
        order.append(fact.subject)
        if rng.random() < 0.1:
            order.append(searches.peer(fact.subject))
    order = list(dict.fromkeys(order))
    if rng.random() < 0.15:
        order[:2] = reversed(order[:2])
    ends = [order.index(fact.subject) for fact in chain[1:]] + [len(order)]
    visible = dict(zip(chain, ends, strict=True))

    def branch(part: tuple[Fact, ...], step: int) -> Branch:
        more = rng.random() < 0.1
        seen = max(order.index(part[step].subject) + 1, min(len(order), visible[part[step]] + more))
        return Branch(world.question_text(part), rationales(world, part)[: step + 1], seen)

    parts = [
        chain[start:end]
        for start in range(hops)
        for end in range(start + 1, min(hops, start + max_hops) + 1)
    ]
    steps = [(part, step) for part in parts for step in range(len(part))]
    branches = [branch(part, step) for part, step in rng.sample(steps, min(len(steps), 12))]
    return Row(tuple(world.passage(entity) for entity in order), tuple(dict.fromkeys(branches)))
