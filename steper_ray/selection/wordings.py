"""Which words stand for others: Jr and Junior, Brit and British, Defence and Defense, OH and Ohio.

Made for English. Used where a step says a name in other words than what it saw.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Final

TITLES: Final = frozenset(
    [
        *("mr", "mrs", "ms", "miss", "dr", "prof", "sir"),
        *("jr", "junior", "sr", "senior", "younger", "elder"),
    ]
)
"""Words that may stand beside a person's name or be left out."""


NO_NAMES: Final = frozenset(
    [
        *("yes", "no", "not", "both", "neither", "and", "or", "true", "false"),
        *("it", "he", "she", "they", "tv"),
        *("passage", "context", "document", "step", "question", "answer"),
    ]
)
"""Words that are no name by themselves, though written with a capital letter."""


KINDS: Final = frozenset(
    [
        *(
            "state",
            "county",
            "city",
            "town",
            "village",
            "district",
            "province",
            "region",
            "country",
        ),
        *("river", "lake", "sea", "island", "islands", "mountain", "street", "road", "bridge"),
        *("airport", "university", "college", "school", "company", "team", "club"),
        *("band", "film", "series", "song"),
        *("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    ]
)
"""Words that a writer may add to a name to say what it names, and weekdays, which a date has."""


BEFORE_NAMES: Final = frozenset(
    [
        *("mr", "mrs", "ms", "dr", "prof", "st", "mt", "ft"),
        *("gen", "col", "lt", "capt", "sen", "gov", "rev"),
    ]
)
"""Abbreviations whose full stop ends no sentence, for a name follows."""


_ABBREVIATIONS: Final = (
    {"jan": "january", "feb": "february", "mar": "march", "apr": "april", "jun": "june"}
    | {"jul": "july", "aug": "august", "sep": "september", "sept": "september"}
    | {"oct": "october", "nov": "november", "dec": "december"}
    | {"st": "saint", "mt": "mount", "ft": "fort", "bros": "brothers", "co": "company"}
    | {"corp": "corporation", "inc": "incorporated", "ltd": "limited"}
    | {"dept": "department", "univ": "university"}
)


_ABBREVIATED: Final = re.compile(rf"\b(?:{'|'.join(_ABBREVIATIONS)})\b")


NOUN_ENDINGS: Final = frozenset(
    [
        *("", "s", "es", "y", "ies", "e", "d", "ed", "r", "rs", "er", "ers", "or", "ors"),
        *("ing", "ings", "ion", "ions", "al", "ly", "ment", "ments", "ship", "man", "men"),
    ]
)
"""What forms of a common noun end with: direct-or, direct-ion."""


NAME_ENDINGS: Final = frozenset(
    [
        *("", "s", "n", "ns", "an", "ans", "ian", "ians", "er", "ers", "ese", "ic", "ish"),
        *("ism", "ist", "ists", "ite", "ites", "i", "y", "ia", "um", "e"),
    ]
)
"""What forms of a name end with: Brit-ish, Texa-n, Buddh-ism."""


_MIN_EDITED: Final = 5
"""Fewest letters of words of which one is the other misspelt; Ann and Ana are two names."""


def respelled(words: str) -> str:
    """Words in lower case, abbreviations written out, with a, o and u for ae, oe and ue."""
    for umlaut in ("ae", "oe", "ue"):
        words = words.replace(umlaut, umlaut[0])
    return _ABBREVIATED.sub(lambda match: _ABBREVIATIONS[match[0]], words)


def is_form(word: str, other: str, endings: frozenset[str], min_stem: int) -> bool:
    """Whether two words in lower case have a stem in common and are else two of the endings.

    min_stem: fewest letters of the stem
    """
    return any(
        word[:cut] == other[:cut] and word[cut:] in endings and other[cut:] in endings
        for cut in range(min_stem, min(len(word), len(other)) + 1)
    )


def is_edit(word: str, other: str) -> bool:
    """Whether two words of some length differ by one letter, or by two that changed places."""
    if min(len(word), len(other)) < _MIN_EDITED or abs(len(word) - len(other)) > 1:
        return False
    start = _common_start(word, other)
    word, other = word[start:], other[start:]
    end = _common_start(word[::-1], other[::-1])
    word, other = word[: len(word) - end], other[: len(other) - end]
    return max(len(word), len(other)) <= 1 or (len(word) == 2 and word == other[::-1])


def _common_start(word: str, other: str) -> int:
    """Letters that two words have in common from their beginning on."""
    pairs = zip(word, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def peoples(name: str) -> tuple[str, ...]:
    """Other names of a country and its people, in lower case; empty for anything else."""
    known = _countries()
    small = name.lower()
    return known.get(small) or known.get(small.removesuffix("s")) or ()


def state(code: str) -> str | None:
    """The state of the USA that a code of two capital letters stands for, in lower case."""
    return _states().get(code)


def state_code(name: str) -> str | None:
    """The code of a state of the USA, of its name in lower case."""
    return _state_codes().get(name)


@cache
def _countries() -> Mapping[str, tuple[str, ...]]:
    known: defaultdict[str, tuple[str, ...]] = defaultdict(tuple)
    for group in _groups("countries.txt"):
        for name in group:
            known[name] += group
    return dict(known)


@cache
def _state_codes() -> Mapping[str, str]:
    return {name: code for code, name in _groups("states.txt")}


@cache
def _states() -> Mapping[str, str]:
    return {code: name for name, code in _state_codes().items()}


def _groups(file: str) -> Iterator[tuple[str, ...]]:
    """The names on each line of a file beside this one."""
    for line in Path(__file__).with_name(file).read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            yield tuple(line.split(", "))
