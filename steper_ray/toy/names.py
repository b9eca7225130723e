"""The fixed inventory of name parts that every toy world draws its names from.

A name is a given part, from the inventory of its kind, and a family part, which kinds share: there are
people, bands and rivers of one family, so names are easily confused, but no two entities of one kind
are. Each part is one token of the toy tokenizer: copying a name is copying two tokens. The parts do not
depend on the world's seed, the entities made of them do. They end in letters that English stemmers
leave alone, so that a name is the same to the index and to the reader.
"""

import random
from dataclasses import dataclass
from functools import cache
from typing import Final

GIVEN: Final = {"person": 90, "company": 60, "band": 60, "show": 60, "city": 52, "river": 40}
FAMILIES: Final = 1000

_ONSETS: Final = "b br d dr f g gr h j k kr l m n p pr r s sk st t tr v vr z".split()  # noqa: SIM905
_VOWELS: Final = "aeiou"
_CODAS: Final = ["l", "m", "n", "r", "k", "lm", "lk", "rn", "rk", "nd", "rd"]
_MIDDLES: Final = ["b", "d", "g", "k", "l", "m", "n", "p", "r", "t", "v", "z"]


@dataclass(frozen=True, slots=True)
class NameParts:
    """All parts, each a word of its own."""

    given: dict[str, tuple[str, ...]]
    """By kind of entity."""
    family: tuple[str, ...]

    def words(self) -> list[str]:
        """Every part once."""
        return [*self.family, *(part for parts in self.given.values() for part in parts)]


@cache
def name_parts() -> NameParts:
    """The inventory; the same in every process."""
    closed = [o + v + c for o in _ONSETS for v in _VOWELS for c in _CODAS]
    open_ = [o + v + m + w for o in _ONSETS for v in _VOWELS for m in _MIDDLES for w in "aou"]
    longer = [o + c for o in open_ for c in ("l", "m", "n", "r", "k")]
    rng = random.Random("steper_ray.toy.names")
    rng.shuffle(closed)
    rng.shuffle(longer)
    words = [word.capitalize() for word in closed]
    given = {}
    for kind, count in GIVEN.items():
        given[kind], words = tuple(words[:count]), words[count:]
    return NameParts(given, tuple(word.capitalize() for word in longer[:FAMILIES]))
