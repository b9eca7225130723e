"""Documents (text, Markdown, HTML) → titled parts → passages.

A part is the text under one heading; its title is the path of headings above it, beginning with the
document's own title: `Handbook › Travel › Trains`. Passages never reach across headings. Markdown is
rendered to HTML (markdown-it-py, CommonMark with tables), so that both are read in one way. Skipped:
scripts, styles, templates and `<nav>`, which repeats on every page of a site; but a tag that Markdown names
inside a paragraph (`the <script> tag`) is text.

Reading takes time in proportion to the length; Markdown can be written to take more, so every document has
a limit of time, beyond which it counts as broken. Titles are cut, and long headings stand in the text too:
passages together are not many times as large as their document.
"""

import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Final

from steper_ray.data.addresses import Source
from steper_ray.data.chunking import cut
from steper_ray.data.decoding import decoded
from steper_ray.data.formats import passage_id
from steper_ray.data.html_tokens import RAW, Tag, attribute, html_tokens
from steper_ray.errors import InputError
from steper_ray.schema import Passage
from steper_ray.text import short_message, squeeze

if TYPE_CHECKING:
    from markdown_it.token import Token

BETWEEN_TITLES: Final = " › "


MAX_DOCUMENT: Final = 1 << 27
"""Bytes of a document at most."""


MAX_SECONDS: Final = 120.0
"""Seconds for the passages of a document at most; a megabyte takes about one."""


MAX_HEADING: Final = 100
"""Characters of a heading in titles; a longer one is text too."""


MAX_TITLE: Final = 200
"""Characters of a title, for which headings between the first and the last one are left out."""


KINDS: Final = {
    ".txt": "text",
    ".md": "Markdown",
    ".markdown": "Markdown",
    ".html": "HTML",
    ".htm": "HTML",
}


_HEADINGS: Final = {f"h{level}": level for level in range(1, 7)}


_LEFT_OUT: Final = frozenset(
    ["template", "svg", "nav", "rt", "rp", "annotation", "annotation-xml", *RAW]
)
"""Elements whose text is none of the document's: `rt` says how the word beside it is read, `annotation` has
the formula beside it in another notation."""


_RUBY_TEXT: Final = frozenset(["rt", "rp"])


_ENDS_LINE: Final = re.compile(
    r"""address|article|aside|blockquote|body|br|caption|center|col|colgroup|dd|details|dialog|dir|div|dl|dt
      | fieldset|figcaption|figure|footer|form|frame|frameset|h[1-6]|head|header|hgroup|hr|html|legend|li
      | listing|main|menu|nav|noframes|noscript|ol|optgroup|option|p|plaintext|pre|search|section|summary
      | table|tbody|tfoot|thead|title|tr|ul|xmp
      | audio|button|canvas|iframe|object|select|textarea|video
    """,
    re.VERBOSE,
)
"""Tags that end a line: the blocks of the HTML standard, and what stands apart in a line, such as buttons.
Every other one is in a line, as it is to browsers: ruby, formulas, custom elements."""


_NUMBER: Final = re.compile(r"\s*([-+−–]?\d+(?:[.,]\d+)?)\s*")


_NAMED_IN_PROSE: Final = re.compile(
    r"<(?=/?(?:iframe|nav|noembed|noframes|plaintext|script|style|template|textarea|title|xmp)[\s/>])",
    re.IGNORECASE,
)
"""Tags that are text inside a paragraph of Markdown: those of GitHub's tagfilter, `nav` and `template`."""


_CELLS: Final = frozenset(["td", "th"])


_FRONT_MATTER: Final = re.compile(r"\A---[ \t]*\n(.*?\n)(?:---|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)


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
            content = stream.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise InputError(f"{source}: cannot be read ({short_message(error)})") from None
    if len(content) > MAX_DOCUMENT:
        raise InputError(f"{source}: more than {MAX_DOCUMENT >> 20} MiB; divide it")
    passages = {}
    with time_limit(MAX_SECONDS, str(source)):
        for part in read_parts(content, source.suffix, str(source), source.stem):
            for text in cut(part.text, size, overlap):
                id = f"{source.name}#{passage_id(part.title, text)}"
                passages[id] = Passage(id, part.title, text)
    return list(passages.values())


@contextmanager
def time_limit(seconds: float, where: str) -> Iterator[None]:
    """Raises InputError after so many seconds; without a limit outside a process's main thread.

    where: names what is read, for the error
    """

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise InputError(f"{where}: takes more than {seconds:g} s to read; simplify or divide it")

    in_thread = threading.current_thread() is not threading.main_thread()
    if in_thread or signal.getitimer(signal.ITIMER_REAL)[0] > 0:
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read_parts(content: bytes, suffix: str, where: str, name: str) -> list[Part]:
    """The parts of a document in the order they stand.

    suffix: one of KINDS; where: names the document in errors; name: its title if it has none of its own
    """
    text = (
        decoded(content, where, KINDS[suffix] == "HTML").replace("\r\n", "\n").replace("\x00", " ")
    )
    if KINDS[suffix] == "text":
        lines = [line for block in re.split(r"\n\s*\n", text) if (line := squeeze(block))]
        return [Part(name, "\n".join(lines))] if lines else []
    if KINDS[suffix] == "Markdown":
        title, text = _front_matter(text)
        return _titled(_blocks(_rendered(text)), title or name)
    return _titled(_blocks(text), name)


def _rendered(markdown: str) -> str:
    from markdown_it import MarkdownIt

    reader = MarkdownIt("commonmark").enable("table")
    reader.add_render_rule("html_inline", _inline_html)
    return str(reader.render(markdown))


def _inline_html(
    _renderer: object, tokens: "Sequence[Token]", at: int, _options: object, _env: object
) -> str:
    """A tag inside a paragraph of Markdown, as HTML."""
    return _NAMED_IN_PROSE.sub("&lt;", tokens[at].content)


def _front_matter(text: str) -> tuple[str, str]:
    """(title, the rest) of Markdown with a block of YAML before it; ("", text) without."""
    import yaml

    match = _FRONT_MATTER.match(text)
    if match is None:
        return "", text
    try:
        # every scalar as it is written: 1984 is a title, and 2024-99-99 no date that stops the reader
        values = yaml.load(match.group(1), Loader=yaml.BaseLoader)
    except (yaml.YAMLError, RecursionError):
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
    collected = _Blocks(_LEFT_OUT)
    collected.read(html)
    if collected.inside:
        # An element that is left out was never closed; rather too much than the rest of the document.
        collected = _Blocks(frozenset(RAW))
        collected.read(html)
    return collected.blocks


class _Blocks:
    """Collects lines of text and headings."""

    def __init__(self, left_out: frozenset[str]) -> None:
        self.blocks: list[_Block] = []
        self.inside: list[str] = []
        """Open elements whose text is skipped."""
        self._left_out = left_out
        self._line: list[str] = []
        self._level = 0
        self._preformatted = 0
        self._raised: tuple[int, str] | None = None
        """Where in the line an open `<sup>` behind a digit begins, and how a number in it is written."""

    def read(self, html: str) -> None:
        """Read a whole document."""
        for token in html_tokens(html):
            if isinstance(token, str):
                self._add_text(token)
            elif token.is_end:
                self._end_element(token.name)
            elif not (token.closes_itself and token.name in self._left_out):
                self._start_element(token)
        self.end_line()

    def _start_element(self, tag: Tag) -> None:
        if tag.name in ("rt", "rp", "rb"):
            self._end_ruby_text()
        if tag.name in self._left_out:
            self.inside.append(tag.name)
        if self.inside:
            return
        if tag.name in _CELLS:
            self._line.append(" ")
        elif _ENDS_LINE.fullmatch(tag.name):
            self.end_line()
        elif tag.name == "sup":
            before = next((piece for piece in reversed(self._line) if piece), "")
            self._raised = (len(self._line), "^{}") if before[-1:].isdecimal() else None
        elif tag.name == "a" and self._raised is not None:
            self._raised = (self._raised[0], "[{}]")  # of a footnote
        self._preformatted += tag.name == "pre"
        if tag.name in _HEADINGS or (tag.name == "title" and not self.blocks):
            self._level = _HEADINGS.get(tag.name, -1)
        if tag.name == "img":
            self._line.append(f" {attribute(tag, 'alt')} ")

    def _end_element(self, name: str) -> None:
        if name == "ruby":
            self._end_ruby_text()
        if self.inside:
            if name == self.inside[-1]:
                self.inside.pop()
            return
        if _ENDS_LINE.fullmatch(name):
            self.end_line()
        if name == "sup":
            self._end_raised()
        if name in _HEADINGS or name == "title":
            self._level = 0
        self._preformatted = max(0, self._preformatted - (name == "pre"))

    def _end_ruby_text(self) -> None:
        """End how a word is read, whose end tag may be missing."""
        if self.inside and self.inside[-1] in _RUBY_TEXT:
            self.inside.pop()

    def _end_raised(self) -> None:
        """Write 10<sup>6</sup> as 10^6: it would be 106. A linked number is a footnote's: 1990[3]."""
        if self._raised is not None:
            start, form = self._raised
            if number := _NUMBER.fullmatch("".join(self._line[start:])):
                self._line[start:] = [form.format(number.group(1))]
        self._raised = None

    def _add_text(self, text: str) -> None:
        if self.inside:
            return
        if not self._preformatted:
            self._line.append(text)
            return
        first, *others = text.split("\n")
        self._line.append(first)
        for line in others:
            self.end_line()
            self._line.append(line)

    def end_line(self) -> None:
        """Make a block of the text collected since the last one."""
        if text := squeeze("".join(self._line)):
            self.blocks.append(_Block(self._level, text))
            self._level = max(0, self._level)  # a title is one line, should its end tag be missing
        self._line = []
        self._raised = None


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
            parts.append(Part(_joined(own if 1 in path else [title, *own]), text))
        lines.clear()

    for block in blocks:
        if block.level == 0:
            lines.append(block.text)
        elif block.level > 0:
            end_part(block.level)
            path = {level: text for level, text in path.items() if level < block.level}
            path[block.level] = block.text
            if len(block.text) > MAX_HEADING:
                lines.append(block.text)
    end_part(0)
    return parts


def _joined(headings: list[str]) -> str:
    """A title of at most MAX_TITLE characters: the first and last headings, as many between as fit."""
    names = [_shortened(heading) for heading in headings]
    while len(title := BETWEEN_TITLES.join(names)) > MAX_TITLE and len(names) > 2:
        del names[1]
    return title[:MAX_TITLE]


def _shortened(heading: str) -> str:
    return heading if len(heading) <= MAX_HEADING else f"{heading[: MAX_HEADING - 1]}…"
