"""Whether two answers are the same to a reader, in any script.

The official exact match deletes ASCII punctuation and knows no other: it takes 3.5 for 35 and −5 for 5, and
tells `“Heroes”` from `"Heroes"` and `東京。` from `東京`. It stays what is reported. What is trained on is
decided here: letters, marks and digits count, and the signs that make a number another one. Case, quotes,
dashes, full width, invisible characters, vowel signs of Arabic and Hebrew, English articles before a word,
how thousands are separated and where words are joined (Spider-Man, U.S.) do not. A unit may be left out
($5, 5), but not be another one ($5, €5).
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from steper_ray.text import squeeze, unescaped, unify

_LOOK_ALIKES: Final = str.maketrans(
    dict.fromkeys("`´‘’‛ʹʻʼʽʾʿ", "'")
    | dict.fromkeys("™℠®©", "")
    | {"˚": "°", "٫": ".", "٬": ",", "٪": "%", "؉": "‰"}
)
"""Signs that stand for another one, of which compatible forms (NFKC) would make a third, or nothing."""


_AFTER_UNIFYING: Final = str.maketrans(
    dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-")
    | {"⁄": "/", "ı": "i", "&": " and "}
)
"""Dashes, the bar of fractions, and a Turkish letter whose capital is I."""


_UNSEEN: Final = re.compile(
    "[\u0640\ufe00-\ufe0f\u2066-\u206f\U000e0100-\U000e01ef"  # stretching, variants, marks of direction
    "\u064b-\u0652\u0670"  # Arabic vowels
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"  # Hebrew vowels and accents
)
"""What is not seen, or may be left out in writing."""


_DEGREE: Final = re.compile(r"(?<=\d)(\s?)º")


_FRACTION: Final = re.compile("(?<=\\d)(?=[\u00bc-\u00be\u2150-\u215f\u2189])")
"""Between a number and a fraction in one character: 1½ is not 11/2."""


_RAISED: Final = re.compile(r"(?<=\d)(?=[\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089])")
"""Before a small digit after a digit: 5² is not 52."""


_COMMAS: Final = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{2,3})*,\d{3}(?!\d)")
"""1,234,567 or 12,34,567."""


_SPACES: Final = re.compile(r"(?<!\d)(?<!\d[ ',.])[1-9]\d{0,2}([ '])\d{3}(?:\1\d{3})*(?![ ']?\d)")
"""1 234 567 or 1'234'567."""


_RATIO: Final = re.compile(r"(?<=\d)( ?)([:/])\1(?=\d)")
"""What stands between two numbers that belong together: 3 : 2, 1/2."""


_ARTICLE: Final = re.compile(r"(?<!\w)(?<!\w[.'-])(?:an?|the)\s+(?=[^\w\s]*\w)")
"""An English article before a word; the A of Hepatitis A is none."""


_ARTICLES: Final = frozenset({"a", "an", "the"})


_FIRST_SIGN: Final = re.compile(r"^- +(?=\.?\d|∞)")
"""A minus apart from the number that begins an answer."""


_SIGN: Final = re.compile(r"(?<!\w)-(?=\.?\d|∞)")


_CHARGE: Final = re.compile(r"(?:(?<=(?<!\w)[^\W\d_])|(?<=(?<!\w)[^\W\d_]{2}))-(?!\w)")
"""A minus at the end of one or two letters: a mark A-, blood type O-, Cl-."""


_POINT: Final = re.compile(r"(?<=\d)[.,](?=\d)")


def is_same_answer(answer: str, golds: Sequence[str]) -> bool:
    """Whether an answer is one of the gold answers; one without a letter or digit is only itself."""
    text, units = matched_text(answer), _units(answer)
    return any(
        text == matched_text(gold) and (units <= _units(gold) or units >= _units(gold))
        for gold in golds
    )


def matched_text(answer: str) -> str:
    """What of an answer is compared, units aside: words without spaces, a space between two numbers alone.

    An answer of nothing but punctuation is left as it is.
    """
    plain = _plain(answer)
    plain = "".join(_without_unit(plain, place) for place in range(len(plain)))
    plain = _FIRST_SIGN.sub("-", squeeze(plain))
    for separated in (_COMMAS, _SPACES):
        plain = separated.sub(lambda number: re.sub(r"\D", "", number[0]), plain)
    plain = _RATIO.sub(r"\2", plain)
    words = _words(_ARTICLE.sub("", plain))
    if _ARTICLES.issuperset(words):
        words = _words(plain)
    joined = re.sub(r"(?<!\d) | (?![\d-])", "", " ".join(words))
    return joined or _plain(answer).strip()


def _plain(answer: str) -> str:
    """An answer in small letters and ASCII digits, with one sign for all that look alike."""
    text = _UNSEEN.sub("", unescaped(answer).translate(_LOOK_ALIKES))
    text = _RAISED.sub("^", _FRACTION.sub(" ", _DEGREE.sub(r"\1°", text)))
    text = unify(text).casefold().translate(_AFTER_UNIFYING).replace("′′", "″")
    # Compatible forms of Arabic and Hebrew letters come apart into letters and vowels.
    return "".join(_ascii_digit(sign) for sign in _UNSEEN.sub("", text))


def _ascii_digit(sign: str) -> str:
    return str(unicodedata.decimal(sign)) if unicodedata.category(sign) == "Nd" else sign


def _units(answer: str) -> frozenset[str]:
    """The currencies, percent signs and primes of an answer."""
    return frozenset(sign for sign in _plain(answer) if _is_unit(sign))


def _is_unit(sign: str) -> bool:
    return sign in "%‰‱′″" or unicodedata.category(sign) == "Sc"


def _without_unit(text: str, place: int) -> str:
    """A character; for a unit a space after a digit, else nothing, so that a minus meets its number."""
    if not _is_unit(text[place]):
        return text[place]
    return " " if place and text[place - 1].isdigit() else ""


def _words(text: str) -> list[str]:
    return "".join(_kept(text, place) for place in range(len(text))).split()


def _kept(text: str, place: int) -> str:
    """What stands for a character: itself, nothing, or a space."""
    sign = text[place]
    kind = unicodedata.category(sign)
    if kind[0] in "LMN" or kind in ("Sm", "So"):
        return sign
    if any(form.match(text, place) for form in (_SIGN, _CHARGE, _POINT)):
        return sign
    before = text[place - 1] if place else " "
    if sign in ":/" and before.isdigit() and text[place + 1 : place + 2].isdigit():
        return sign
    if sign in "#^" and before.isalnum():
        return sign  # C#
    joins = sign in ".'-" and 0 < place < len(text) - 1
    return "" if joins and not before.isdigit() else " "
