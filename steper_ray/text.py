"""Text for people: one line, counts, sizes, shares."""


def one_line(text: str) -> str:
    """The text on one line, with single spaces, without what cannot be printed."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())
