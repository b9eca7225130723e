"""Chunking: texts → passages of whole sentences, with a size and an overlap.

A passage is a slice of the text: sentences that follow one another, as many as fit. The next one begins
with the last sentences of the one before, as many as fit into the overlap, and brings at least one new
one. Only a sentence longer than the size is itself cut, at spaces where it has any. So nothing is lost
and no passage is longer than the size. Cost: one pass over the text.

Sizes are in characters, which bound a passage in every script; a word has about six in English.
"""

import re
from collections.abc import Iterator
from typing import Final

Span = tuple[int, int]
"""Start and end in a text, the end not included."""


_ENDS: Final = re.compile(
    r"""[.!?…]+["'”’»)\]]*[^\S\n]+   # a sentence's sign, what closes with it, and a space
      | [。！？]+[」』”）]*           # in Chinese and Japanese no space follows
      | \n\s*                         # a line of its own: a paragraph, a list item, a row
    """,
    re.VERBOSE,
)


_WORD_BEFORE: Final = re.compile(r"[\w.&'’-]*\Z")


_ABBREVIATION: Final = re.compile(
    r"""mr|mrs|ms|dr|prof|rev|hon|gen|col|lt|sgt|capt|st|mt|ft|jr|sr|vs|cf|al|vol|fig|eq|eds|pp|ca|approx
      | dept|est|viz|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec
      | (?:[a-z]\.)*[a-z]               # initials, e.g., U.S., a.m.
    """,
    re.VERBOSE | re.IGNORECASE,
)


_BEFORE_NUMBERS: Final = re.compile(r"nos?|op|p|ch|art|sec", re.IGNORECASE)


def sentences(text: str) -> list[Span]:
    """Spans of the sentences of a text, without the space between them.

    A sign followed by a lower-case letter, an abbreviation or an initial ends none. What is missed only
    makes a sentence longer.
    """
    spans, start = [], 0
    for match in _ENDS.finditer(text):
        if "\n" in match.group() or match.group()[0] in "。！？" or _ends(text, match):
            spans.append((start, match.end()))
            start = match.end()
    spans.append((start, len(text)))
    return [stripped for span in spans if (stripped := _strip(text, span))[0] < stripped[1]]


def passage_spans(text: str, size: int, overlap: int) -> list[Span]:
    """Spans of the passages of a text.

    size: characters of a passage at most; overlap: characters that it repeats at most, under `size`
    """
    assert 0 <= overlap < size
    pieces = [piece for span in sentences(text) for piece in _pieces(text, span, size)]
    spans, first = [], 0
    while first < len(pieces):
        start, last = pieces[first][0], first
        while last + 1 < len(pieces) and pieces[last + 1][1] - start <= size:
            last += 1
        end = pieces[last][1]
        spans.append((start, end))
        following = last + 1
        if following == len(pieces):
            break
        first = next(
            (
                at
                for at in range(first + 1, following)
                if end - pieces[at][0] <= overlap and pieces[following][1] - pieces[at][0] <= size
            ),
            following,
        )
    return spans


def cut(text: str, size: int, overlap: int) -> list[str]:
    """The passages of a text; see `passage_spans`."""
    return [text[start:end] for start, end in passage_spans(text, size, overlap)]


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether a sign that a space follows ends a sentence."""
    following = text[match.end() : match.end() + 1]
    if following.islower():
        return False
    if not match.group().startswith(".") or match.group().startswith(".."):
        return True
    before = _WORD_BEFORE.search(text, max(0, match.start() - 20), match.start())
    word = before.group().lstrip("'’-&") if before else ""
    if following.isdigit() and _BEFORE_NUMBERS.fullmatch(word):
        return False
    return _ABBREVIATION.fullmatch(word) is None


def _pieces(text: str, span: Span, size: int) -> Iterator[Span]:
    """The span of a sentence, or the spans it is cut into where it is longer than `size`."""
    start, end = span
    while end - start > size:
        space = max(
            text.rfind(" ", start, start + size + 1), text.rfind("\t", start, start + size + 1)
        )
        cut_at = space if space > start else start + size
        yield _strip(text, (start, cut_at))
        start, _ = _strip(text, (cut_at, end))
    yield start, end


def _strip(text: str, span: Span) -> Span:
    start, end = span
    inside = text[start:end]
    start += len(inside) - len(inside.lstrip())
    return start, max(start, start + len(inside.strip()))
