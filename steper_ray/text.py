"""Text on one line, and numbers as text: for people, prompts and messages."""

import re
import unicodedata
from html import unescape
from typing import Final

UNKNOWN: Final = "–"
"""A value that is not known, in a table."""


_INVISIBLE: Final = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\ufeff\u0307]"
)
"""Soft hyphens, joiners, marks of direction; and the dot that is left of a Turkish capital I."""


_HALF_CHARACTER: Final = re.compile("[\ud800-\udfff]")


_HUGE_REFERENCE: Final = re.compile(r"&#[0-9]{20,};?")
"""A reference to no character, with a number that may be too long for Python."""


def unescaped(text: str) -> str:
    """The text without entities and character references of HTML."""
    return unescape(_HUGE_REFERENCE.sub("\ufffd", text)) if "&" in text else text


def unify(text: str) -> str:
    """A text in lower case and NFKC, without entities of HTML and without invisible characters."""
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", unescaped(text).lower()))


def percent_number(share: float, digits: int = 1) -> str:
    """A share in percent, without the sign: 43.2."""
    return f"{100 * share:.{digits}f}"


def squeeze(text: str) -> str:
    """The text on one line, with single spaces."""
    return " ".join(text.split())


def is_unicode(text: str) -> bool:
    """Whether a text is whole characters: no half of a pair, and no byte that was not UTF-8."""
    return _HALF_CHARACTER.search(text) is None


def one_line(text: str) -> str:
    """The text on one line, with single spaces, without what cannot be printed."""
    return squeeze("".join(sign if sign.isprintable() else " " for sign in text))


def short_message(message: object, *, secret: str | None = None, longest: int = 200) -> str:
    """A foreign message or error on one line, cut after `longest` characters.

    An error without a message is its type's name. What is no valid Unicode becomes `?`.

    secret: a token that must not be shown, wherever it stands in the message
    """
    line = squeeze(str(message)).encode(errors="replace").decode()
    if not line and isinstance(message, BaseException):
        line = type(message).__name__
    if secret:
        line = line.replace(secret, "…")
    return line if len(line) <= longest else f"{line[:longest]}…"
