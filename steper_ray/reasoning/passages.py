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

from steper_ray.reasoning.frameworks.protocol import render_passages
from steper_ray.schema import Passage
from steper_ray.sentences import sentences

USUAL_CHARACTERS: Final = 6
"""Characters for each token of the limit up to which a passage may well be within it."""


MAX_CHARACTERS: Final = 16
"""Characters for each token of the limit beyond which nothing is looked at."""


_WORD: Final = re.compile(r"\S+")


def cut_passage(passage: Passage, limit: int, count_text: Callable[[str], int]) -> Passage:
    """The passage with as many of its first sentences as fit into `limit` tokens, its title included.

    Of a first sentence that is longer itself, as many words; if the first of them is, as many signs.
    A passage that is clearly too long is counted sentence by sentence, and no further than is needed.
    """
    if _is_within(limit, passage, count_text):
        return passage
    text = passage.text
    (head,) = render_passages([replace(passage, text="")])
    window = text[: limit * MAX_CHARACTERS]
    cut_off = len(window) < len(text)
    ends = [end for _, end in sentences(window)]
    if not ends:
        return replace(passage, text="")
    ends = ends[:-1] or ends if cut_off else ends
    room = limit - count_text(head)
    counts = accumulate(count_text(window[start:end]) for start, end in pairwise([0, *ends]))
    fitting = sum(1 for _ in takewhile(lambda tokens: tokens <= room, counts))
    if fitting == len(ends) and not cut_off:
        return passage
    end = ends[fitting - 1] if fitting else _end_of_words(window[: ends[0]], room, count_text)
    return replace(passage, text=text[:end])


def _is_within(limit: int, passage: Passage, count_text: Callable[[str], int]) -> bool:
    """Whether a passage has at most `limit` tokens; no for one that is clearly longer.

    A token has a byte or more. So where a part of three characters a token leaves room for the rest as so
    many bytes, the rest need not be counted; of most passages that is most.
    """
    (whole,) = render_passages([passage])
    if len(whole) > limit * USUAL_CHARACTERS:
        return False
    size = len(whole.encode(errors="surrogatepass"))
    part = max(0, size - limit) * 3 // 2
    for counted in (part, len(whole)):
        rest = len(whole[counted:].encode(errors="surrogatepass"))
        if rest <= limit and count_text(whole[:counted]) + rest <= limit:
            return True
    return False


def _end_of_words(sentence: str, room: int, count_text: Callable[[str], int]) -> int:
    """Where the words of a sentence end that fit into `room` tokens, or the signs of a long first one."""

    def tokens(end: int) -> int:
        return count_text(sentence[:end])

    ends = [word.end() for word in _WORD.finditer(sentence)]
    words = bisect_right(ends, room, key=tokens)
    if words:
        return ends[words - 1]
    return bisect_right(range(1, len(sentence) + 1), room, key=tokens)
