"""Long passages, cut at sentences when they are first found.

What is left is the passage from then on: in every later prompt, in the chain and so in training, and in the
answers of a server.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, pairwise, takewhile
from typing import Final

from steper_ray.data.chunking import sentences
from steper_ray.reasoning.frameworks.protocol import render_passages
from steper_ray.schema import Passage

CHARACTERS_PER_TOKEN: Final = 16
"""More than a text has; what lies beyond so many for each token of the limit is not looked at."""


_WORD: Final = re.compile(r"\S+")


def cut_passage(passage: Passage, limit: int, count_text: Callable[[str], int]) -> Passage:
    """The passage with as many of its first sentences as fit into `limit` tokens, its title included.

    Of a first sentence that is longer itself, as many words; if the first of them is, as many signs.
    Tokens are counted sentence by sentence, of no more text than is needed.
    """
    text = passage.text
    (head,) = render_passages([replace(passage, text="")])
    if len((head + text).encode(errors="surrogatepass")) < limit:
        return passage  # a token has a byte or more, but for one that some tokenizers put first
    window = text[: limit * CHARACTERS_PER_TOKEN]
    cut_off = len(window) < len(text)
    ends = [end for _, end in sentences(window)]
    ends = (ends[:-1] if cut_off else ends) or [len(window)]
    room = limit - count_text(head)
    counts = accumulate(count_text(window[start:end]) for start, end in pairwise([0, *ends]))
    fitting = sum(1 for _ in takewhile(lambda tokens: tokens <= room, counts))
    if fitting == len(ends) and not cut_off:
        return passage
    end = ends[fitting - 1] if fitting else _end_of_words(window[: ends[0]], room, count_text)
    return replace(passage, text=text[:end])


def _end_of_words(sentence: str, room: int, count_text: Callable[[str], int]) -> int:
    """Where the words of a sentence end that fit into `room` tokens, or the signs of a long first one."""

    def tokens(end: int) -> int:
        return count_text(sentence[:end])

    ends = [word.end() for word in _WORD.finditer(sentence)]
    words = bisect_right(ends, room, key=tokens)
    if words:
        return ends[words - 1]
    return bisect_right(range(1, len(sentence) + 1), room, key=tokens)
