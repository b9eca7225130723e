"""Text on one line, and numbers as text: for people, prompts and messages."""

from typing import Final

UNKNOWN: Final = "–"
"""A value that is not known, in a table."""


def percent_number(share: float, digits: int = 1) -> str:
    """A share in percent, without the sign: 43.2."""
    return f"{100 * share:.{digits}f}"


def squeeze(text: str) -> str:
    """The text on one line, with single spaces."""
    return " ".join(text.split())


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
