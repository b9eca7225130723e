"""A small invented world: people, bands, shows, companies, cities and rivers, and questions about them.

Each entity has one passage with its facts (each a sentence that names another entity) and some noise.
A question names the first entity of a chain of facts and asks for the last, so that each fact must be
found before the next can be searched for. Names share their parts, so a search also brings passages
about others.

Everything follows from the seed. Splits share no two consecutive facts, hence no chain and no part of
one that takes more than a single look-up.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from steper_ray.schema import Passage, Question
from steper_ray.toy.names import name_parts


@dataclass(frozen=True, slots=True)
class Relation:
    """A kind of fact: how a question asks for it and how a passage states it."""

    noun: str
    subject: str
    object: str
    verb: str
    """One word: what it joins then stands side by side, which a tiny model learns to look up in minutes."""


RELATIONS: Final = (
    Relation("producer", "show", "company", "credits"),
    Relation("host", "show", "person", "features"),
    Relation("headliner", "show", "band", "presents"),
    Relation("leader", "band", "person", "follows"),
    Relation("label", "band", "company", "joined"),
    Relation("hometown", "band", "city", "praises"),
    Relation("founder", "company", "person", "honours"),
    Relation("headquarters", "company", "city", "occupies"),
    Relation("birthplace", "person", "city", "left"),
    Relation("employer", "person", "company", "serves"),
    Relation("idol", "person", "band", "admires"),
    Relation("mayor", "city", "person", "elected"),
    Relation("river", "city", "river", "spans"),
    Relation("estuary", "river", "city", "reaches"),
    Relation("surveyor", "river", "person", "remembers"),
)

COUNTS: Final = {
    "person": 1000,
    "company": 900,
    "band": 900,
    "show": 900,
    "city": 900,
    "river": 700,
}

_ADJECTIVES: Final = ["old", "quiet", "famous", "northern", "narrow", "bright", "modern", "small"]
_NOISE: Final = {
    "person": ("They own a {} house.", "They once won a {} prize.", "They play in a {} choir."),
    "company": ("It makes {} tools.", "It runs a {} factory.", "It sells {} furniture."),
    "band": ("It recorded a {} album.", "It toured with a {} orchestra.", "It plays {} songs."),
    "show": ("It ran for a {} season.", "It drew a {} audience.", "It was filmed in a {} studio."),
    "city": ("It has a {} market.", "It is known for a {} bridge.", "It keeps a {} library."),
    "river": ("It passes a {} valley.", "It feeds a {} lake.", "It carries {} boats."),
}


@dataclass(frozen=True, slots=True)
class Fact:
    """One sentence of the world, by entity number."""

    subject: int
    relation: Relation
    object: int


@dataclass(frozen=True, slots=True)
class Entity:
    kind: str
    name: str
    facts: tuple[Fact, ...]
    noise: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """The entities of one seed; passages and questions are derived from them."""

    seed: int
    entities: tuple[Entity, ...]

    def sentence(self, fact: Fact) -> str:
        """The fact as its passage states it, and as a reasoning step repeats it."""
        subject, object_ = self.entities[fact.subject], self.entities[fact.object]
        return f"{subject.name} {fact.relation.verb} {object_.name}."

    def passage(self, entity: int) -> Passage:
        """The entity's passage: its facts and its noise, in an order of its own."""
        sentences = [self.sentence(fact) for fact in self.entities[entity].facts]
        sentences += self.entities[entity].noise
        random.Random(f"{self.seed} passage {entity}").shuffle(sentences)
        return Passage(f"p{entity:05d}", self.entities[entity].name, " ".join(sentences))

    def passages(self) -> list[Passage]:
        return [self.passage(entity) for entity in range(len(self.entities))]

    def question_text(self, chain: tuple[Fact, ...]) -> str:
        """The chain as a question: the relations from the last to the first, then the first entity."""
        nouns = " of ".join(f"the {fact.relation.noun}" for fact in reversed(chain))
        word = "Who" if chain[-1].relation.object == "person" else "What"
        return f"{word} is {nouns} of {self.entities[chain[0].subject].name}?"

    def question(self, question_id: str, chain: tuple[Fact, ...]) -> Question:
        return Question(
            id=question_id,
            question=self.question_text(chain),
            answer=self.entities[chain[-1].object].name,
            supporting_ids=tuple(f"p{fact.subject:05d}" for fact in chain),
            hops=len(chain),
        )

    def random_chain(self, rng: random.Random, hops: int) -> tuple[Fact, ...]:
        """A chain of `hops` facts in which no entity and no relation occurs twice."""
        while True:
            chain: list[Fact] = []
            entity = rng.randrange(len(self.entities))
            visited = {entity}
            while len(chain) < hops:
                used = {fact.relation.noun for fact in chain}
                facts = [
                    fact
                    for fact in self.entities[entity].facts
                    if fact.relation.noun not in used and fact.object not in visited
                ]
                if not facts:
                    break
                chain.append(rng.choice(facts))
                entity = chain[-1].object
                visited.add(entity)
            if len(chain) == hops:
                return tuple(chain)

    def chains(self, splits: dict[str, int]) -> Iterator[tuple[str, tuple[Fact, ...]]]:
        """Chains of 2, 3 and 4 hops in turn, `splits[name]` of them for each split.

        Two consecutive facts belong to the first split that uses them and to no other.
        """
        rng = random.Random(f"{self.seed} chains")
        owner: dict[tuple[Fact, Fact], str] = {}
        taken: set[tuple[Fact, ...]] = set()
        for split, count in splits.items():
            made = 0
            while made < count:
                chain = self.random_chain(rng, 2 + made % 3)
                pairs = list(pairwise(chain))
                if chain in taken or any(owner.get(pair, split) != split for pair in pairs):
                    continue
                owner.update(dict.fromkeys(pairs, split))
                taken.add(chain)
                made += 1
                yield split, chain

    def questions(self, splits: dict[str, int]) -> dict[str, list[Question]]:
        """The questions of each split."""
        by_split: dict[str, list[Question]] = {split: [] for split in splits}
        for split, chain in self.chains(splits):
            rows = by_split[split]
            rows.append(self.question(f"{split}-{len(rows):05d}", chain))
        return by_split


def make_world(seed: int, scale: float = 1.0) -> World:
    """Invent a world; `scale` multiplies the number of entities of each kind (1.0: 5,300)."""
    rng = random.Random(f"{seed} world")
    counts = {kind: max(8, round(scale * count)) for kind, count in COUNTS.items()}
    parts = name_parts()
    members: dict[str, list[int]] = {}
    kinds: list[str] = []
    names: list[str] = []
    for kind, count in counts.items():
        members[kind] = list(range(len(names), len(names) + count))
        given, families = rng.choices(parts.given[kind], k=count), rng.sample(parts.family, count)
        names += [f"{first} {last}" for first, last in zip(given, families, strict=True)]
        kinds += [kind] * count
    entities = []
    for number, (kind, name) in enumerate(zip(kinds, names, strict=True)):
        facts = tuple(
            Fact(number, relation, rng.choice(members[relation.object]))
            for relation in RELATIONS
            if relation.subject == kind
        )
        noise = tuple(
            template.format(rng.choice(_ADJECTIVES))
            for template in rng.sample(_NOISE[kind], rng.randint(1, 2))
        )
        entities.append(Entity(kind, name, facts, noise))
    return World(seed, tuple(entities))


def vocabulary() -> list[str]:
    """Every word a world's text can contain, for the toy tokenizer; independent of the seed."""
    words = name_parts().words()
    for relation in RELATIONS:
        words += [relation.noun, relation.verb]
    for templates in _NOISE.values():
        for template in templates:
            words += template.replace("{}", "").strip(".").split()
    words += [*_ADJECTIVES, *["Who", "What", "is", "the", "of"]]
    return list(dict.fromkeys(words))
