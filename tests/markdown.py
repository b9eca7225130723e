"""The texts and tables that a Markdown reader sees on a card."""

from typing import Final

from markdown_it import MarkdownIt

MARKDOWN: Final = MarkdownIt("commonmark").enable(["table", "strikethrough"])


def shown(markdown: str) -> str:
    """What a reader sees: the text of paragraphs, headings, cells and code."""
    lines = []
    for token in MARKDOWN.parse(markdown):
        if token.type == "inline":
            children = token.children or []
            texts = (" " if child.type == "softbreak" else child.content for child in children)
            lines.append("".join(texts))
        elif token.type in ("fence", "html_block"):
            lines.append(token.content)
    return "\n".join(lines)


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables, each as rows of the text of their cells."""
    found: list[list[list[str]]] = []
    for token in MARKDOWN.parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level >= 4:
            assert {child.type for child in token.children or []} <= {"text"}
            found[-1][-1].append("".join(child.content for child in token.children or []))
    return found
