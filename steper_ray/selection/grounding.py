"""Whether a step says only what it could know: its names and numbers, looked up in what it saw.

A rationale is *grounded* when each name and each number in it occurs in a passage that stood in the step's
prompt, in an earlier rationale, or in the question. No model is asked; the rule is made for languages that
write names, and little else, with capital letters:

* A *name* is a sequence of words with a capital letter, with nothing between them but spaces, hyphens,
  apostrophes and the full stops of initials. It occurs where the same words follow one another, whatever
  their case, accents and punctuation. Up to two other capitalised words may stand between two of them
  (Barack Obama, Barack Hussein Obama), and three or more words may be found in two pieces (President
  Barack Obama). Single letters are no names.
* The first word of a sentence is capitalised anyway, so it belongs to a name only where the same word is
  seen capitalised away from a sentence's start, and never in lower case.
* A name may be written in another way: a country for its people (France, French), initials for names
  (F. W. Murnau, BBC), a number of it as numeral (Louis the 14th), a month cut short, a common noun with a
  capital letter (the Director).
* A *number* is written in digits, with its thousands separated or not; `19th` and `1990s` contain 19 and
  1990. The source may have it in words, as a Roman numeral, as a century, with a scale (1.5 million), or
  as the years between one that the step names and one that it saw.
* What points to a step or a passage by its number (Step 2, Document [1]) is left out.

So an invented name and two halves of different names are found out; a wrong relation between names that
were both seen is not, and neither is a name of one word at the start of a sentence. A fault is *certain*
where a word of a name occurs nowhere; what else is not found may be worded or reckoned in a way that is
not known here.

Of 136 supporting sentences and answers of HotpotQA none is faulted over the passages of their own question,
and 93 of 96 sentences over those of another; of 19 true sentences in other words none; of 60 sentences with
a name or number of another question's passages in place of their own, 57, of which 30 for certain
(`tests/selection/test_grounding.py`).

Cost: a few milliseconds a chain of five steps and twenty passages; it grows with the length of the texts,
however often they repeat a name.
"""

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from steper_ray.schema import Chain
from steper_ray.selection.readings import NUMBER, canonical, numbers, peoples, readings
from steper_ray.sentences import END_SIGNS

_WORD: Final = re.compile(r"[^\W_]+")


_NO_WORD: Final = re.compile(r"[\W_]+")


_ACCENTS: Final = re.compile(r"[\u0300-\u036f]+")


_JOINS: Final = re.compile(r"\s+|['’.-]\s*|\s?&\s?")
"""What may stand between two words of one name; a full stop after an initial only."""


_ENDS: Final = re.compile(rf"[{END_SIGNS}:;]|\n")
"""What ends a sentence; a colon too, for what comes after `So the answer is:` begins anew."""


_REFERENCES: Final = re.compile(
    r"\b(?:step|fact|passage|document|doc|source|text|context)s?\s*[\[(#]*\d+[\])]*|\[\d+(?:\s*,\s*\d+)*\]",
    re.IGNORECASE,
)
"""What points to a step or passage by its number."""


_YEARS: Final = re.compile(r"\b[12]\d{3}\b")


_SPAN: Final = re.compile(
    r"(?:\bag(?:ed|e of)\s+)(\d{1,3})\b|\b(\d{1,3})[\s-]years?\b", re.IGNORECASE
)
"""A number of years, which a reader counts from two years."""


_LETTERS: Final = str.maketrans(
    {"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ð": "d", "þ": "th", "ı": "i"}
    | {"æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ß": "ss"}
)
"""Letters that have no accent to be taken off."""


LONGEST_REORDERED: Final = 6
"""Most words of a name that is looked for in another order, and most letters of initials."""


COMMON_STEM: Final = 6
"""Letters that two forms of a common noun share."""


_SMALL_WORDS: Final = "of|the|and|for|in|on|de|la|du|von|van"
"""Words that initials leave out."""


_MONTHS: Final = frozenset(
    ["jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"]
)


_PIECE: Final = re.compile(r"([^\W\d_]\.|\S+)(\s*)")
"""What stands between two spaces, taken apart after initials (J.R.R. Tolkien), and the space after it."""


_NAME_PART: Final = re.compile(r"(?![a-z])[^\W\d_](?:\.|[\w'-]*)")
"""A piece that may stand between two words of a name: a capitalised word or an initial."""


_ONE_LETTER: Final = str.maketrans("ıς", "iσ")
"""Small letters that share their capital with another."""


@dataclass(frozen=True, slots=True)
class Ungrounded:
    """A name or number that a step could not know."""

    step: int
    """From 1 on."""
    text: str
    """As written."""
    certain: bool
    """Whether it is a name with a word of which the step saw nothing; others may be worded or reckoned."""


def ungrounded(chain: Chain) -> list[Ungrounded]:
    """Each name and number that a step could not know, in their order."""
    # Two texts a passage. The comma: a title is a name, so its first word starts no sentence.
    shown = [Text(text) for p in chain.passages for text in (f", {p.title}", p.text)]
    asked_and_said = [Text(chain.question)]
    found: list[Ungrounded] = []
    seen = 0
    for number, step in enumerate(chain.steps, 1):
        seen += len(step.passage_ids)
        source = Source([*shown[2 * step.dropped_passages : 2 * seen], *asked_and_said])
        rationale = Text(_REFERENCES.sub(" ", step.rationale))
        found += [Ungrounded(number, *one) for one in _unknown(rationale, source)]
        asked_and_said.append(rationale)
    return found


class Text:
    """A text without accents and with compatible signs made one, and its bare words in lower case."""

    def __init__(self, text: str) -> None:
        if not text.isascii():
            text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).translate(_LETTERS)
        self.folded = text
        self.words = _NO_WORD.sub(" ", text).lower()

    @cached_property
    def numbers(self) -> frozenset[str]:
        """Every number that it says; see `readings.numbers`."""
        return numbers(self.folded)

    @cached_property
    def years(self) -> frozenset[int]:
        """Its numbers of four digits that may be years."""
        return frozenset(map(int, _YEARS.findall(self.folded)))

    @cached_property
    def canonical(self) -> list[str]:
        """Its words in lower case, ordinals and Roman numerals as digits."""
        return [canonical(word) for word in _WORD.findall(self.folded)]

    @cached_property
    def small(self) -> str:
        """The text in small letters, with its punctuation."""
        return _small(self.folded)

    @cached_property
    def pieces(self) -> "Pieces":
        """Where its words stand as parts of names."""
        begin: defaultdict[str, int] = defaultdict(int)
        end: defaultdict[str, int] = defaultdict(int)
        whole: defaultdict[str, int] = defaultdict(int)
        name_parts = 0
        for number, match in enumerate(_PIECE.finditer(self.folded)):
            piece, space = match.groups()
            bit = 1 << number
            words = re.split(r"\W", _small(piece))
            begin[words[0]] |= bit
            if space:
                end[words[-1]] |= bit
            if space and len(words) == 1:
                whole[words[0]] |= bit
            if _NAME_PART.fullmatch(piece) and (space or piece.endswith(".")):
                name_parts |= bit
        return Pieces(begin, end, whole, name_parts)


@dataclass(frozen=True, slots=True)
class Pieces:
    """Places of the words of a text. A set of pieces is an integer, whose bit n stands for piece n: so all
    places where a name may go on are followed at once, however often its words are repeated."""

    begin: Mapping[str, int]
    """Word → the pieces that begin with it."""
    end: Mapping[str, int]
    """Word → the pieces that end with it and have a space behind them."""
    whole: Mapping[str, int]
    """Word → the pieces that are nothing else and have a space behind them."""
    name_parts: int
    """The pieces that may stand between two words of a name."""


class Source:
    """What a step could know, and how to look something up in it."""

    def __init__(self, texts: Sequence[Text]) -> None:
        self._texts = texts
        self._words = f" {' | '.join(text.words for text in texts)} "
        """Every word with a space on either side; a bar between two texts."""

    @cached_property
    def _numbers(self) -> set[str]:
        return {number for text in self._texts for number in text.numbers}

    @cached_property
    def _years(self) -> set[int]:
        return {year for text in self._texts for year in text.years}

    def has_words(self, words: Sequence[str]) -> bool:
        """Whether the words follow one another somewhere."""
        return f" {' '.join(words).lower()} " in self._words

    def has_name(self, words: Sequence[str]) -> bool:
        """Whether the words are a name that occurs: as they are, spread, in two pieces, or otherwise."""
        if self.has_words(words):
            return True
        if len(words) > 1 and self._has_spread(words):
            return True
        if len(words) > 2 and self._has_halves(words):
            return True
        return self._has_otherwise(words)

    def has_number(self, readings: Sequence[str]) -> bool:
        """Whether a number occurs in one of its readings, however it is written."""
        return not self._numbers.isdisjoint(readings)

    def has_span(self, years: int, said: Iterable[int]) -> bool:
        """Whether so many years lie between a year that was said and one that occurs, or one less, for a
        birthday may lie between."""
        return any(abs(one - year) - years in (0, 1) for one in said for year in self._years)

    def has_as_name(self, word: str) -> bool:
        """Whether a word occurs capitalised away from a sentence's start, and never in lower case."""
        mid_sentence = False
        for text in (text.folded for text in self._texts):
            for match in re.finditer(rf"(?i)(?<![^\W_]){re.escape(word)}(?![^\W_])", text):
                if match[0].islower():
                    return False
                before = match.start() - 1
                while before >= 0 and text[before] in " \"'“‘(":
                    before -= 1
                mid_sentence |= before >= 0 and _ENDS.match(text[before]) is None
        return mid_sentence

    def _has_spread(self, words: Sequence[str]) -> bool:
        """Whether the words occur in their order with capitalised words between them."""
        small = [_small(word) for word in words]
        return any(
            _is_spread(small, text.pieces)
            for text in self._texts
            if all(word in text.small for word in small)
        )

    def _has_otherwise(self, words: Sequence[str]) -> bool:
        """Whether the words stand for a name that is written in another way."""
        if any(self.has_words(_NO_WORD.split(form)) for form in peoples(" ".join(words))):
            return True
        if len(words) == 1:
            (word,) = words
            return self._has_short(word) or self._has_common(word)
        return len(words) <= LONGEST_REORDERED and (
            self._has_initials(words) or self._has_reordered(words)
        )

    def _has_short(self, word: str) -> bool:
        """Whether a word is the initials of a name (BBC), letters apart (p.m.) or a month (Sept)."""
        if word.lower() in _MONTHS:
            return f" {word[:3].lower()}" in self._words
        if not word.isupper() or not 2 <= len(word) <= LONGEST_REORDERED:
            return False
        parts = rf"[\w'’-]*[\s-]+(?:(?:{_SMALL_WORDS})\s+)*".join(map(re.escape, word))
        initials = re.compile(rf"\b{parts}")
        return self.has_words(word) or any(initials.search(text.folded) for text in self._texts)

    def _has_common(self, word: str) -> bool:
        """Whether a long word, or a form of it, is written small somewhere: a common noun (Director)."""
        stem = word[:COMMON_STEM]
        if len(stem) < COMMON_STEM:
            return False
        return any(re.search(rf"\b{re.escape(stem.lower())}", t.folded) for t in self._texts)

    def _has_initials(self, words: Sequence[str]) -> bool:
        """Whether the words occur with names in place of single letters (F. W. Murnau)."""
        if all(len(word) > 1 for word in words):
            return False
        parts = (re.escape(w.lower()) + (r"\S*" if len(w) == 1 else "") for w in words)
        return re.search(rf" {' '.join(parts)} ", self._words) is not None

    def _has_reordered(self, words: Sequence[str]) -> bool:
        """Whether words with a numeral follow one another in another order (World War II)."""
        wanted, size = sorted(map(canonical, words)), len(words)
        return any(word.isdecimal() for word in wanted) and any(
            sorted(text.canonical[place : place + size]) == wanted
            for text in self._texts
            if wanted[0] in text.canonical
            for place in range(len(text.canonical) - size + 1)
        )

    def _has_halves(self, words: Sequence[str]) -> bool:
        """Whether the words can be cut into two parts that both occur."""
        # What occurs does so in part: the longest beginning and the longest end have to meet.
        cuts = range(1, len(words))
        begin = bisect_left(cuts, True, key=lambda cut: not self.has_words(words[:cut]))
        end = bisect_left(cuts, True, key=lambda cut: not self.has_words(words[-cut:]))
        return begin + end >= len(words)


def _small(text: str) -> str:
    return text.lower().translate(_ONE_LETTER)


def _is_spread(words: Sequence[str], pieces: Pieces) -> bool:
    """Whether each word follows the one before it after at most two parts of names."""
    places = pieces.end.get(words[0], 0)
    for number, word in enumerate(words[1:], 2):
        next_places = places << 1
        for _ in range(2):
            next_places |= (next_places & pieces.name_parts) << 1
        wanted = pieces.begin if number == len(words) else pieces.whole
        places = next_places & wanted.get(word, 0)
    return places != 0


def _unknown(rationale: Text, source: Source) -> Iterator[tuple[str, bool]]:
    """Names and numbers of a rationale that the source does not have, and whether that is certain."""
    for words, starts_sentence in names(rationale.folded):
        rest = words
        if source.has_name(words):
            continue
        if starts_sentence and not source.has_as_name(words[0]):
            rest = words[1:]
        if any(len(word) > 1 for word in rest) and (rest is words or not source.has_name(rest)):
            new = (word for word in rest if len(word) > 1)
            yield " ".join(rest), any(not source.has_name([word]) for word in new)
    spans = {match.start(match.lastindex or 0) for match in _SPAN.finditer(rationale.folded)}
    for match in NUMBER.finditer(rationale.folded):
        if source.has_number(readings(rationale.folded, match)):
            continue
        if match.start() not in spans or not source.has_span(int(match[0]), rationale.years):
            yield match[0], False


def names(text: str) -> Iterator[tuple[list[str], bool]]:
    """(words, whether they start a sentence) of each sequence of capitalised words in a folded text."""
    words: list[str] = []
    starts, end = True, 0
    for match in _WORD.finditer(text):
        word, gap = match[0], text[end : match.start()]
        initial = bool(words) and len(words[-1]) == 1 and words[-1] != "I" and gap.startswith(".")
        ends_sentence = not end or (_ENDS.search(gap) is not None and not initial)
        capital = word != word.lower() and not word[0].isdigit()
        if words and (ends_sentence or not capital or not _JOINS.fullmatch(gap)):
            yield words, starts
            words = []
        if capital:
            if not words:
                starts = ends_sentence
            words.append(word)
        end = match.end()
    if words:
        yield words, starts
