"""What else a number may be written as: 1.5 million and 1,500,000, 19th century and 1800s.

Used where a step says what it saw in another form. Each function is about English or about figures; what it
does not know stays unknown.
"""

import re
from functools import lru_cache
from typing import Final

NUMBER: Final = re.compile(r"(?<![^\W_])(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?")
"""A number in figures; those inside a word like F16 are part of the word."""


_SCALES: Final = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}


_SCALED: Final = re.compile(rf"({NUMBER.pattern})[\s-]+({'|'.join(_SCALES)})\b", re.IGNORECASE)


_CENTURY: Final = re.compile(r"\b(\d{1,2})(?:st|nd|rd|th)[\s-]centur", re.IGNORECASE)


_HUNDREDS: Final = re.compile(r"\b(\d{1,2})00s\b")


_ROMAN: Final = re.compile(r"\b(?=[IVXLC]{2,}\b|[VX]\b)(?:XC|XL|L?X{0,3})(?:IX|IV|V?I{0,3})\b")


_ROMAN_VALUES: Final = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


_ORDINALS: Final = (
    *("zeroth", "first", "second", "third", "fourth", "fifth", "sixth"),
    *("seventh", "eighth", "ninth", "tenth", "eleventh", "twelfth"),
)


def numbers(text: str) -> frozenset[str]:
    """Every number that a text says, as digits: written so, in words, in Roman numerals, as a century."""
    found = {plain(match[0]) for match in NUMBER.finditer(text)}
    found.update(plain(match[0]) for match in NUMBER.finditer(_in_digits(text)))
    found.update(scaled(match) for match in _SCALED.finditer(text))
    found.update(str(roman(match[0])) for match in _ROMAN.finditer(text))
    found.update(str((int(match[1]) - 1) * 100) for match in _CENTURY.finditer(text))
    found.update(str(int(match[1]) + 1) for match in _HUNDREDS.finditer(text))
    return frozenset(found)


def readings(text: str, match: re.Match[str]) -> tuple[str, ...]:
    """What the number at a place of a text may mean: itself, and with the scale that follows it."""
    wide = _SCALED.match(text, match.start())
    return (plain(match[0]), *([scaled(wide)] if wide else []))


def plain(number: str) -> str:
    """A number without its commas, and without zeros that say nothing: 1,500.0 is 1500."""
    digits = number.replace(",", "")
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def scaled(match: re.Match[str]) -> str:
    """1.5 million as 1500000."""
    whole, _, part = match[1].replace(",", "").partition(".")
    places = _SCALES[match[2].lower()]
    digits = f"{whole}{part.ljust(places, '0')}"
    return digits if len(part) <= places else f"{digits[: places - len(part)]}"


def roman(numeral: str) -> int:
    """The value of a Roman numeral below 100."""
    values = [_ROMAN_VALUES[sign] for sign in numeral]
    return sum(
        -value if value < max(values[place:]) else value for place, value in enumerate(values)
    )


@lru_cache(maxsize=4096)
def canonical(word: str) -> str:
    """A word in lower case; an ordinal or a Roman numeral as digits."""
    small = word.lower()
    if small in _ORDINALS:
        return str(_ORDINALS.index(small))
    if _ROMAN.fullmatch(word):
        return str(roman(word))
    ordinal = re.fullmatch(r"(\d+)(?:st|nd|rd|th)", small)
    return ordinal[1] if ordinal else small


def _in_digits(text: str) -> str:
    """The text with its English number words as digits."""
    from text_to_num import alpha2digit

    return str(alpha2digit(text, "en", threshold=0))
