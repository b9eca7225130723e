"""Cleaning: what a model wrote, without the marks that chat models put around their words.

Every framework's `parse` begins with it. Gone are empty lines, code fences, bullets, list numbers, headings
and numbered labels (`Step 2:`) at the beginning of a line, emphasis (`**x**`, `*x*`, `_x_`, `x` in
backticks), the addresses of links, quotes around a whole line and signs that cannot be seen. Text without
such marks keeps its words; each of its lines has single spaces. Cost: linear in the length, some
microseconds a sentence.
"""

import re
from collections.abc import Mapping
from typing import Final

from steper_ray.text import squeeze

_FENCE: Final = re.compile(r"(?:```|~~~)\s?\w*|[\s*_`~#>=-]+")
"""A line that says nothing: the fence of a code block, or a rule."""


_LINE_MARKS: Final = re.compile(
    r"""(?: \#{1,6}\s | >\s? | [-+*•·‣◦●▪–—]\s            # heading, quotation, bullet
          | \(?\d{1,2}[.)]\s | （\d{1,2}）\s? | \d{1,2}、   # list number
          # numbered label, but an action of ReAct
          | (?:(?!action)[^\W\d_]+\s\#?|[\u30a0-\u30ff\u3400-\u9fff]+)\d{1,2}\s?(?::(?:\s|$)|：\s?+)(?!\d)
        )+""",
    re.VERBOSE | re.IGNORECASE,
)


_INVISIBLE: Final = str.maketrans(dict.fromkeys("\xad\u200b\u2060\ufeff", "") | {"\u2011": "-"})
"""Signs that cannot be seen, and the hyphen that looks like any other."""


_EDGES: Final = re.compile(
    r"""(?<![\w*`_]) (?:[*`_]{2,}+ | `) (?=[^\s*`_)\]])   # before a word
      | (?<=[^\s*`_]) (?:[*`_]{2,}+ | `) (?!\w)         # behind one
    """,
    re.VERBOSE,
)
"""Strong emphasis and backticks, whether or not both ends are there (a stop text may have cut one off)."""


_EMPHASIS: Final = re.compile(
    r"""(?<![\w*]) \* (?=[^\s*]) ([^*]*) (?<=[^\s*]) \* (?![\w*])
      | (?<![\w_]) _ (?=[^\s_]) ([^_]*) (?<=[^\s_]) _ (?![\w_])
      | ^ \* (?=\w) ([^*]*) $
    """,
    re.VERBOSE,
)


_LINK: Final = re.compile(r"\[([^\[\]]+)\]\(https?://[^\s()]*\)")


QUOTES: Final = {
    '"': '"',
    "'": "'",
    "＂": "＂",
    "“": "”",
    "”": "”",
    "„": "“”",
    "‘": "’",
    "’": "’",
    "‚": "‘’",
    "«": "»",
    "»": "«»",
    "‹": "›",
    "›": "‹›",
    "「": "」",
    "『": "』",
    "《": "》",
    "〈": "〉",
}
"""Opening → closing quotes."""


def clean(text: str) -> str:
    """The text without marks, empty lines and surplus space; a line stays a line."""
    text = text.translate(_INVISIBLE)
    lines = (_clean_line(squeeze(line)) for line in text.split("\n") if line.strip())
    return "\n".join(line for line in lines if line)


def clean_line(text: str) -> str:
    """The text without marks on one line."""
    return clean(squeeze(clean(text)))


def unquoted(text: str, pairs: Mapping[str, str] = QUOTES) -> str:
    """The text without the quotes around the whole of it.

    pairs: opening → closing
    """
    closing = pairs.get(text[:1], "")
    if len(text) < 2 or text[-1] not in closing:
        return text
    inside = text[1:-1]
    return text if any(sign in inside for sign in text[0] + closing) else inside.strip()


def _clean_line(line: str) -> str:
    """A line without its marks; it has single spaces."""
    if _FENCE.fullmatch(line):
        return ""
    line = _EMPHASIS.sub(_inside, _EDGES.sub("", _LINK.sub(r"\1", line))).strip()
    match = _LINE_MARKS.match(line)
    return unquoted(line[match.end() :] if match else line)


def _inside(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)
