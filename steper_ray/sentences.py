"""Sentences of a text in any script: where they end, and where a full stop ends none.

Used to cut documents into passages and what a model wrote into steps. What is missed only makes a sentence
longer. Cost: linear in the length of the text.
"""

import re
from typing import Final

END_SIGNS: Final = ".!?…؟۔।。！？｡"
"""Signs that may end a sentence, in any script."""


_CLOSING: Final = "\"'”’“‘»«›‹)]」』）"


Span = tuple[int, int]
"""Start and end in a text, the end not included."""


_ENDS: Final = re.compile(
    r"""(?<![.!?…؟۔।])[.!?…؟۔।]++["'”’“‘»«›‹)\]]*+[^\S\n]++   # a sign, what closes with it, and a space
      | [。！？｡]+[」』”）]*   # in Chinese and Japanese no space follows
      | \n\s*                 # a line of its own: a paragraph, a list item, a row
    """,
    re.VERBOSE,
)


_WORD_BEFORE: Final = re.compile(r"[\w.&'’-]*\Z")


_ABBREVIATION: Final = re.compile(
    r"""mr|mrs|ms|dr|prof|rev|hon|gen|col|lt|sgt|capt|st|mt|ft|jr|sr|vs|cf|al|vol|fig|eq|eds|pp|ca|approx
      | gov|sen|adm|cmdr|maj|msgr|inc|ltd|corp|co|bros|dept|est|viz
      | jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec
      | bzw|hr|mme|mlle|sra|srta|dra
      | (?:[a-z]\.)*[a-z]               # initials, e.g., U.S., a.m.
    """,
    re.VERBOSE | re.IGNORECASE,
)


_BEFORE_NUMBERS: Final = re.compile(r"nos?|nr|op|p|ch|art|sec", re.IGNORECASE)


_AT_AN_END: Final = re.compile(r"(?:[a-z]\.)*[a-z]|inc|ltd|corp|co|bros|jr|sr", re.IGNORECASE)
"""Abbreviations that sentences end with: U.S., p.m., Jr., vitamin C."""


_BEGINNING: Final = re.compile(
    r"(?:it|she|they|this|these|those|there|the|then|however|he(?=\s(?:was|is|had|has|also)\b))\s",
    re.IGNORECASE,
)
"""Words that no name goes on with; He is one in China."""


_ORDINAL_BEFORE: Final = re.compile(
    r"""januar|jänner|februar|märz|april|mai|juni|juli|august|september|oktober|november|dezember
      | jahrhunderts?\b|weltkriegs?\b""",
    re.VERBOSE | re.IGNORECASE,
)
"""What a German number with a full stop is said of: am 3. Oktober, im 19. Jahrhundert."""


def sentences(text: str) -> list[Span]:
    """Spans of the sentences of a text, without the space between them.

    A sign followed by a lower-case letter, an abbreviation or an initial ends none, nor does an exclamation
    mark between two capitalised words. What is missed only makes a sentence longer.
    """
    spans, start = [], 0
    for match in _ENDS.finditer(text):
        if "\n" in match.group() or match.group()[0] in "。！？｡" or _ends(text, match):
            spans.append((start, match.end()))
            start = match.end()
    spans.append((start, len(text)))
    return [stripped for span in spans if (stripped := stripped_span(text, span))[0] < stripped[1]]


def end_sign(text: str) -> str:
    """The sign with which a text ends its last sentence, quotes and brackets aside; empty without one."""
    last = text.rstrip(_CLOSING)[-1:]
    return last if last in END_SIGNS else ""


def finished(text: str) -> str:
    """The text with a full stop, unless it ends a sentence already or is empty."""
    if not text or end_sign(text):
        return text
    return text + ("。" if is_unspaced(text[-1]) else ".")


def is_unspaced(sign: str) -> bool:
    """Whether a character is Chinese or Japanese, which have full stops and question marks of their own."""
    return "\u3005" <= sign <= "\u30ff" or "\u3400" <= sign <= "\u9fff"


def stripped_span(text: str, span: Span) -> Span:
    """The span without the space at its ends."""
    start, end = span
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return start, max(start, start + len(inside.strip()))


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a sign that a space follows ends a sentence."""
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    before = _WORD_BEFORE.search(text, max(0, match.start() - 20), match.start())
    word = before.group().lstrip("'’-&") if before else ""
    if match.group().rstrip() == "!":  # in a title: Mamma Mia! Here We Go Again
        return not (word[:1].isupper() and following.isupper())
    if not match.group().startswith(".") or match.group().startswith(".."):
        return True
    if following.isdigit() and _BEFORE_NUMBERS.fullmatch(word):
        return False
    if word.isdecimal() and _ORDINAL_BEFORE.match(text, match.end()):
        return False
    if _AT_AN_END.fullmatch(word) and _BEGINNING.match(text, match.end()):
        return True
    return _ABBREVIATION.fullmatch(word) is None
