"""What a step could know, taken apart once, and how to look a name or a number up in it.

The rules are those of `steper_ray.selection.grounding`.
"""

import re
import unicodedata
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from steper_ray.selection.readings import canonical, numbers
from steper_ray.selection.wordings import (
    KINDS,
    NAME_ENDINGS,
    NOUN_ENDINGS,
    is_edit,
    is_form,
    peoples,
    respelled,
    state,
    state_code,
)
from steper_ray.sentences import END_SIGNS

WORD: Final = re.compile(r"[^\W_]+")


_NO_WORD: Final = re.compile(r"[\W_]+")


_ACCENTS: Final = re.compile(r"[\u0300-\u036f]+")


_JOINED: Final = re.compile(r"['’-](?<=[^\W\d_].)(?=[^\W\d_])")
"""What joins two parts of a word that others write as one: Jin-ri, Hawai'i."""


ENDS: Final = re.compile(rf"[{END_SIGNS}:;]|\n")
"""What ends a sentence; a colon too, for what comes after `So the answer is:` begins anew."""


_YEARS: Final = re.compile(r"\b[12]\d{3}\b")


_LETTERS: Final = str.maketrans(
    {"ł": "l", "Ł": "L", "ø": "o", "Ø": "O", "đ": "d", "Đ": "D", "ð": "d", "þ": "th", "ı": "i"}
    | {"æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ß": "ss", "\u02bb": "'", "\u02bc": "'"}
)
"""Letters that have no accent to be taken off, and apostrophes that count as letters."""


LONGEST_REORDERED: Final = 6
"""Most words of a name that is looked for in another order, and most letters of initials."""


COMMON_STEM: Final = 6
"""Fewest letters that two forms of a common noun share."""


NAME_STEM: Final = 4
"""Fewest letters that two forms of a name share."""


_SMALL_WORDS: Final = "of|the|and|for|in|on|de|la|du|von|van"
"""Words that initials leave out."""


_PIECE: Final = re.compile(r"([^\W\d_]\.|\S+)(\s*)")
"""What stands between two spaces, taken apart after initials (J.R.R. Tolkien), and the space after it."""


_NAME_PART: Final = re.compile(r"(?![a-z])[^\W\d_](?:\.|[\w'-]*)")
"""A piece that may stand between two words of a name: a capitalised word or an initial."""


_ONE_LETTER: Final = str.maketrans("ıς", "iσ")
"""Small letters that share their capital with another."""


class Text:
    """A text without accents and with compatible signs made one, and its bare words in lower case."""

    def __init__(self, text: str) -> None:
        if not text.isascii():
            text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).translate(_LETTERS)
        self.folded = text
        self.words = respelled(_NO_WORD.sub(" ", text).lower())

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
        return [canonical(word) for word in WORD.findall(self.folded)]

    @cached_property
    def joined(self) -> str:
        """Its words as `words` has them, but those of several parts as one."""
        return respelled(_NO_WORD.sub(" ", _JOINED.sub("", self.folded)).lower())

    @cached_property
    def capitalised(self) -> frozenset[str]:
        """Its words that begin with a capital letter, in lower case."""
        return frozenset(w.lower() for w in WORD.findall(self.folded) if w[0].isupper())

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
    def _joined(self) -> str:
        return f" {' | '.join(text.joined for text in self._texts)} "

    @cached_property
    def _numbers(self) -> set[str]:
        return {number for text in self._texts for number in text.numbers}

    @cached_property
    def _years(self) -> set[int]:
        return {year for text in self._texts for year in text.years}

    def has_words(self, words: Sequence[str]) -> bool:
        """Whether the words follow one another somewhere."""
        return f" {respelled(' '.join(words).lower())} " in self._words

    def rejoined(self, text: str) -> str:
        """A folded text in which words of two parts are one, where this source has them as one."""

        def joined(match: re.Match[str]) -> str:
            whole = _JOINED.sub("", match[0])
            return whole if self.has_words([whole]) else match[0]

        return re.sub(r"[^\W\d_]+['’-][^\W\d_]+", joined, text)

    def has_name(self, words: Sequence[str]) -> bool:
        """Whether the words are a name that occurs: as they are, spread, in two pieces, or otherwise."""
        if self.has_words(words):
            return True
        if len(words) > 1 and self._has_spread(words):
            return True
        if len(words) > 2 and self._has_halves(words):
            return True
        return self._has_otherwise(words)

    def may_have(self, word: str) -> bool:
        """Whether a word that does not occur may still be known: by its kind, or by one that is like it."""
        small = word.lower()
        if small in KINDS or not word.isalpha() or self._has_small_initials(word):
            return True
        return any(
            is_edit(small, other) or is_form(small, other, NAME_ENDINGS, NAME_STEM)
            for text in self._texts
            for other in text.capitalised
        )

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
                mid_sentence |= before >= 0 and ENDS.match(text[before]) is None
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
        name = " ".join(words)
        if any(self.has_words(_NO_WORD.split(form)) for form in peoples(name)):
            return True
        if len(words) == 1 and (self._has_short(name) or self._has_common(name)):
            return True
        if 1 < len(words) <= LONGEST_REORDERED and (
            self._has_initials(words) or self._has_reordered(words)
        ):
            return True
        return self._has_state_code(name) or f" {respelled(name.lower())} " in self._joined

    def _has_state_code(self, name: str) -> bool:
        """Whether the name is a state of the USA whose code occurs behind a comma (Columbus, OH)."""
        code = state_code(name.lower())
        return code is not None and any(re.search(rf",\s{code}\b", t.folded) for t in self._texts)

    def _has_short(self, word: str) -> bool:
        """Whether a word is the initials of a name (BBC), letters apart (p.m.) or a state (OH)."""
        if (name := state(word)) is not None and self.has_words([name]):
            return True
        return _is_short(word) and (
            self.has_words(word) or any(_initials(word).search(t.folded) for t in self._texts)
        )

    def _has_small_initials(self, word: str) -> bool:
        """Whether a word may be the initials of words in small letters (prisoner of war)."""
        # two letters begin words that stand side by side anywhere
        if not _is_short(word) or len(word) == 2:
            return False
        return any(_initials(word.lower()).search(text.folded) for text in self._texts)

    def _has_common(self, word: str) -> bool:
        """Whether a long word, or a form of it, is written small somewhere: a common noun (Director)."""
        small = word.lower()
        if len(small) < COMMON_STEM:
            return False
        like = re.compile(rf"\b{re.escape(small[:COMMON_STEM])}[^\W_]*")
        return any(
            is_form(small, other, NOUN_ENDINGS, COMMON_STEM)
            for text in self._texts
            for other in like.findall(text.folded)
        )

    def _has_initials(self, words: Sequence[str]) -> bool:
        """Whether the words occur with names in place of single letters (F. W. Murnau)."""
        if all(len(word) > 1 for word in words):
            return False
        parts = (re.escape(respelled(w.lower())) + (r"\S*" if len(w) == 1 else "") for w in words)
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


def _is_short(word: str) -> bool:
    """Whether a word may be initials."""
    return word.isupper() and 2 <= len(word) <= LONGEST_REORDERED


def _initials(letters: str) -> re.Pattern[str]:
    """Words that follow one another and begin with these letters."""
    parts = rf"[\w'’-]*[\s-]+(?:(?:{_SMALL_WORDS})\s+)*".join(map(re.escape, letters))
    return re.compile(rf"\b{parts}")


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
