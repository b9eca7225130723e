"""The fixed inventory of name parts that every toy world draws its names from.

Each kind of entity has its own first and second parts, and each part is one token of the toy
tokenizer: copying a name is then copying two tokens. The parts do not depend on the world's seed, the
entities made of them do. They end in letters that English stemmers leave alone, so that a name is the
same to the index and to the reader.
"""

import random
from functools import cache
from typing import Final

PARTS_PER_SLOT: Final = {
    "person": 90,
    "company": 60,
    "band": 60,
    "show": 60,
    "city": 52,
    "river": 40,
}

_ONSETS: Final = "b br d dr f g gr h j k kr l m n p pr r s sk st t tr v vr z".split()  # noqa: SIM905
_VOWELS: Final = "aeiou"
_CODAS: Final = ["l", "m", "n", "r", "k", "lm", "lk", "rn", "rk", "nd", "rd"]
_MIDDLES: Final = ["b", "d", "g", "k", "l", "m", "n", "p", "r", "t", "v", "z"]


@cache
def name_parts() -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """First and second name parts of each kind of entity; all parts are distinct words."""
    closed = [o + v + c for o in _ONSETS for v in _VOWELS for c in _CODAS]
    open_ = [o + v + m + w for o in _ONSETS for v in "aeiou" for m in _MIDDLES for w in "aou"]
    rng = random.Random("steper_ray.toy.names")
    rng.shuffle(closed)
    rng.shuffle(open_)
    words = [w.capitalize() for pair in zip(open_, closed, strict=False) for w in pair]
    parts = {}
    for kind, count in PARTS_PER_SLOT.items():
        taken, words = words[: 2 * count], words[2 * count :]
        parts[kind] = (tuple(taken[0::2]), tuple(taken[1::2]))
    return parts
