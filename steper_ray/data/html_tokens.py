"""HTML → tags and texts, in one pass: linear in the length of the text whatever it holds.

Python's `html.parser` takes time by the square of the length for tags, comments and declarations that do
not end, and fails at `<![x]>`. Here what does not end is text. The content of scripts and styles is left
out, up to their end tag, as browsers read them; where none follows, their start tag is text (`the <script>
tag`), and nothing after it is lost.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from steper_ray.text import unescaped

RAW: Final = ("script", "style")
"""Elements whose content is not HTML."""


@dataclass(frozen=True, slots=True)
class Tag:
    """A start tag, an end tag, or both in one (`<br/>`)."""

    name: str
    attributes: str = ""
    is_end: bool = False
    closes_itself: bool = False


_OPENING: Final = re.compile(r"<(?:!--|!\[CDATA\[|(/?)([a-zA-Z][^\s/>]*+)|[!?/])")


_TAG_END: Final = re.compile(r"""(?:[^>=]|=\s*+(?:"[^"]*+"|'[^']*+')?+)*+>""")
"""The attributes of a tag and its end; quotes mean something after `=` only."""


_ATTRIBUTE: Final = re.compile(
    r"""([^\s=/>"']++)\s*+(?:=\s*+(?:"([^"]*+)"|'([^']*+)'|([^\s>]*+)))?+"""
)


def html_tokens(html: str) -> Iterator[Tag | str]:
    """The tags and texts of a document, in order; texts without entities."""
    return _Reader(html).tokens()


def attribute(tag: Tag, name: str) -> str:
    """The value of an attribute; empty where the tag has none."""
    for match in _ATTRIBUTE.finditer(tag.attributes):
        if match.group(1).lower() == name:
            return unescaped(match.group(2) or match.group(3) or match.group(4) or "")
    return ""


class _Reader:
    def __init__(self, html: str) -> None:
        self._html = html
        self._missing: set[str] = set()
        """Ends that were searched for and do not come any more: no search is made twice for nothing."""

    def tokens(self) -> Iterator[Tag | str]:
        at = start = 0
        while match := _OPENING.search(self._html, at):
            end, token = self._read(match)
            content_end = end
            if isinstance(token, Tag) and token.name in RAW and end is not None:
                content_end = self._end_of_raw(token, end)
            if content_end is None:  # no tag: text, with what follows
                at = match.start() + 1
                continue
            if start < match.start():
                yield unescaped(self._html[start : match.start()])
            if token:
                yield token
            at = start = content_end
        if start < len(self._html):
            yield unescaped(self._html[start:])

    def _read(self, match: re.Match[str]) -> tuple[int | None, Tag | str]:
        """Where a tag, comment or declaration ends, None if it does not, and its token if it has one."""
        if match.group() == "<!--":
            end = self._after("-->", match.end())
            return (end if end is not None else self._after(">", match.end())), ""
        if match.group() == "<![CDATA[":
            end = self._after("]]>", match.end())
            if end is not None:
                return end, self._html[match.end() : end - 3]
        if match.group(2) is None:
            return self._after(">", match.end()), ""
        end = self._end_of_tag(match.end())
        if end is None:
            return None, ""
        attributes = self._html[match.end() : end - 1]
        is_end, closes_itself = match.group(1) == "/", attributes.endswith("/")
        return end, Tag(match.group(2).lower(), attributes, is_end, closes_itself)

    def _end_of_tag(self, at: int) -> int | None:
        if "tag" not in self._missing:
            if match := _TAG_END.match(self._html, at):
                return match.end()
            self._missing.add("tag")  # every > is in quotes, so these are none
        return self._after(">", at)

    def _after(self, sign: str, at: int) -> int | None:
        """The position after the next `sign`; None if none comes."""
        if sign in self._missing:
            return None
        found = self._html.find(sign, at)
        if found < 0:
            self._missing.add(sign)
            return None
        return found + len(sign)

    def _end_of_raw(self, tag: Tag, at: int) -> int | None:
        """Where the content of a script or style ends that begins at `at`; None without an end tag."""
        if tag.is_end or tag.closes_itself:
            return at
        if tag.name in self._missing:
            return None
        match = re.compile(rf"</{tag.name}(?=[\s/>])", re.IGNORECASE).search(self._html, at)
        if match is None:
            self._missing.add(tag.name)
            return None
        return match.start()
