"""Documents (text, Markdown, HTML) → titled parts → passages.

A part is the text under one heading; its title is the path of headings above it, beginning with the
document's own title: `Handbook › Travel › Trains`. Passages never reach across headings. Markdown is
rendered to HTML (markdown-it-py, CommonMark with tables), so that both are read by one parser, Python's.
Skipped: scripts, styles, templates and `<nav>`, which repeats on every page of a site.
"""

import re
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import Final

from steper_ray.data.addresses import Source
from steper_ray.data.chunking import cut
from steper_ray.data.formats import passage_id
from steper_ray.errors import InputError
from steper_ray.schema import Passage
from steper_ray.text import short_message, squeeze

BETWEEN_TITLES: Final = " › "


KINDS: Final = {
    ".txt": "text",
    ".md": "Markdown",
    ".markdown": "Markdown",
    ".html": "HTML",
    ".htm": "HTML",
}


_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}


_NEVER_TEXT: Final = frozenset(["script", "style"])


_LEFT_OUT: Final = frozenset(["template", "svg", "nav", *_NEVER_TEXT])


_IN_LINE: Final = re.compile(
    r"""a|abbr|acronym|b|bdi|bdo|big|cite|code|data|del|dfn|em|font|i|img|input|ins|kbd|label|mark|q|s|samp
      | small|span|strike|strong|sub|sup|time|tt|u|var|wbr
    """,
    re.VERBOSE,
)
"""Tags that do not end a line; every other one does."""


_CELLS: Final = frozenset(["td", "th"])


_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


_CHARSET: Final = re.compile(rb"<meta[^>]*charset\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """The text under one heading."""

    title: str
    text: str
    """Paragraphs, list items and table rows, a line each."""


def document_passages(source: Source, size: int, overlap: int) -> list[Passage]:
    """The passages of a document, each once; none where it has no text.

    An id is the document's name and a hash of title and text: a change elsewhere in it changes no id.
    Raises InputError where it cannot be read or decoded.
    """
    try:
        with source.open() as stream:
            content = stream.read()
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({short_message(error)})") from None
    passages = {}
    for part in read_parts(content, source.suffix, str(source), source.stem):
        for text in cut(part.text, size, overlap):
            id = f"{source.name}#{passage_id(part.title, text)}"
            passages[id] = Passage(id, part.title, text)
    return list(passages.values())


def read_parts(content: bytes, suffix: str, where: str, name: str) -> list[Part]:
    """The parts of a document in the order they stand.

    suffix: one of KINDS; where: names the document in errors; name: its title if it has none of its own
    """
    text = (
        _decode(content, where, KINDS[suffix] == "HTML").replace("\r\n", "\n").replace("\x00", " ")
    )
    if KINDS[suffix] == "text":
        lines = [line for block in re.split(r"\n\s*\n", text) if (line := squeeze(block))]
        return [Part(name, "\n".join(lines))] if lines else []
    if KINDS[suffix] == "Markdown":
        title, text = _front_matter(text)
        return _titled(_blocks(_rendered(text)), title or name)
    return _titled(_blocks(text), name)


def _decode(content: bytes, where: str, html: bool) -> str:
    named = _CHARSET.search(content[:2048]) if html else None
    encoding = named.group(1).decode() if named else "utf-8"
    encoding = "utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding
    try:
        return content.decode(encoding)
    except LookupError:
        raise InputError(
            f"{where}: unknown encoding {encoding!r}; save the file as UTF-8"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where}: invalid {encoding.removesuffix('-sig').upper()} at byte {error.start + 1}; "
            "save the file as UTF-8"
        ) from None


def _rendered(markdown: str) -> str:
    from markdown_it import MarkdownIt

    return str(MarkdownIt("commonmark").enable("table").render(markdown))


def _front_matter(text: str) -> tuple[str, str]:
    """(title, the rest) of Markdown with a block of YAML before it; ("", text) without."""
    import yaml

    match = _FRONT_MATTER.match(text)
    if match is None:
        return "", text
    try:
        values = yaml.safe_load(match.group(1))
    except yaml.YAMLError:
        return "", text
    if not isinstance(values, dict):
        return "", text
    title = values.get("title")
    return (squeeze(title) if isinstance(title, str) else ""), text[match.end() :]


@dataclass(frozen=True, slots=True)
class _Block:
    level: int
    """1 to 6: a heading; 0: text; -1: the document's title."""
    text: str


def _blocks(html: str) -> list[_Block]:
    parser = _Blocks(_LEFT_OUT)
    parser.feed(html)
    parser.close()
    if parser.inside:
        # An element that is left out was never closed; rather too much than the rest of the document.
        parser = _Blocks(_NEVER_TEXT)
        parser.feed(html)
        parser.close()
    parser.end_line()
    return parser.blocks


class _Blocks(HTMLParser):
    """Collects lines of text and headings."""

    def __init__(self, left_out: frozenset[str]) -> None:
        super().__init__(convert_charrefs=True)
        self.blocks: list[_Block] = []
        self.inside: list[str] = []
        """Open elements whose text is skipped."""
        self._left_out = left_out
        self._line: list[str] = []
        self._level = 0
        self._preformatted = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self._left_out:
            self.inside.append(tag)
        if self.inside:
            return
        if tag in _CELLS:
            self._line.append(" ")
        elif not _IN_LINE.fullmatch(tag):
            self.end_line()
        self._preformatted += tag == "pre"
        if tag in _HEADINGS or (tag == "title" and not self.blocks):
            self._level = _HEADINGS.get(tag, -1)
        if tag == "img":
            self._line.append(f" {dict(attrs).get('alt') or ''} ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self._left_out:
            self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag: str) -> None:
        if self.inside:
            if tag == self.inside[-1]:
                self.inside.pop()
            return
        if not _IN_LINE.fullmatch(tag) and tag not in _CELLS:
            self.end_line()
        if tag in _HEADINGS or tag == "title":
            self._level = 0
        self._preformatted = max(0, self._preformatted - (tag == "pre"))

    def handle_data(self, data: str) -> None:
        if self.inside:
            return
        if not self._preformatted:
            self._line.append(data)
            return
        first, *others = data.split("\n")
        self._line.append(first)
        for line in others:
            self.end_line()
            self._line.append(line)

    def end_line(self) -> None:
        """Make a block of the text collected since the last one."""
        if text := squeeze("".join(self._line)):
            self.blocks.append(_Block(self._level, text))
        self._line = []


def _titled(blocks: list[_Block], name: str) -> list[Part]:
    """Blocks → parts; name: the document's title unless it says one itself."""
    title = next((block.text for block in blocks if block.level == -1), name)
    parts: list[Part] = []
    path: dict[int, str] = {}
    lines: list[str] = []

    def end_part(following: int) -> None:
        """Finish a part; following: level of the heading that comes next, 0 at the end."""
        own = [path[level] for level in sorted(path)]
        text = "\n".join(lines)
        if not text and own and following <= max(path):
            text = own[-1]  # a heading with nothing under it is all there is to find
        if text:
            names = own if 1 in path else [title, *own]
            parts.append(Part(BETWEEN_TITLES.join(names), text))
        lines.clear()

    for block in blocks:
        if block.level == 0:
            lines.append(block.text)
        elif block.level > 0:
            end_part(block.level)
            path = {level: text for level, text in path.items() if level < block.level}
            path[block.level] = block.text
    end_part(0)
    return parts
