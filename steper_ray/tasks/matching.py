"""Whether two answers are the same to a reader, in any script.

The official exact match deletes ASCII punctuation and knows no other: it takes 3.5 for 35 and −5 for 5, and
tells `“Heroes”` from `"Heroes"` and `東京。` from `東京`. It stays what is reported. What is trained on is
decided here: letters, marks and digits count, and the signs that make a number another one. Case, quotes,
dashes, full width, invisible characters, English articles and where words are joined (Spider-Man, U.S.) do
not.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Final

from steper_ray.text import unify

_DASHES: Final = re.compile("[\u2010-\u2015\u2212\ufe58\ufe63\uff0d]")


_RAISED: Final = re.compile(r"(?<=\d)(?=[\u00b2\u00b3\u00b9\u2070-\u2079\u2080-\u2089])")
"""Before a small digit after a digit: 5² is not 52."""


_THOUSANDS: Final = re.compile(r"(?<=\d),(?=(?:\d{2,3},)*\d{3}(?!\d))")
"""A comma in 1,234,567 or 12,34,567."""


_SIGN: Final = re.compile(r"(?<!\w)-(?=\.?\d)")


_POINT: Final = re.compile(r"(?<=\d)[.,](?=\d)")


_ARTICLES: Final = frozenset({"a", "an", "the"})


def is_same_answer(answer: str, golds: Sequence[str]) -> bool:
    """Whether an answer is one of the gold answers; one without a letter or digit is only itself."""
    given = matched_text(answer)
    return any(given == matched_text(gold) for gold in golds)


def matched_text(answer: str) -> str:
    """What of an answer is compared: words without spaces, a space between two numbers alone.

    An answer of nothing but punctuation is left as it is.
    """
    plain = unify(_RAISED.sub("^", answer)).casefold()
    plain = _THOUSANDS.sub("", _DASHES.sub("-", plain))
    words = "".join(_kept(plain, place) for place in range(len(plain))).split()
    content = [word for word in words if word not in _ARTICLES] or words
    joined = " ".join(content)
    return re.sub(r"(?<!\d) | (?![\d-])", "", joined) or plain.strip()


def _kept(text: str, place: int) -> str:
    """What stands for a character: itself, its digit, nothing, or a space."""
    sign = text[place]
    kind = unicodedata.category(sign)
    if kind == "Nd":
        return str(unicodedata.decimal(sign))
    if kind[0] in "LMN" or kind in ("Sm", "So"):
        return sign
    if _SIGN.match(text, place) or _POINT.match(text, place):
        return sign
    if sign in "#^" and place and text[place - 1].isalnum():
        return sign  # C#
    joins = sign in ".'’-&" and 0 < place < len(text) - 1
    return "" if joins and not text[place - 1].isdigit() else " "
