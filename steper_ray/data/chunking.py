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

from steper_ray.sentences import Span, sentences, stripped_span

_NO_SPACE: Final = re.compile(r"\S")


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


def _pieces(text: str, span: Span, size: int) -> Iterator[Span]:
    """The span of a sentence, or the spans it is cut into where it is longer than `size`."""
    start, end = span
    while end - start > size:
        space = max(
            text.rfind(" ", start, start + size + 1), text.rfind("\t", start, start + size + 1)
        )
        cut_at = space if space > start else start + size
        yield stripped_span(text, (start, cut_at))
        following = _NO_SPACE.search(text, cut_at, end)
        start = following.start() if following else end
    yield start, end
