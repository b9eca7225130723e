"""Documents → passages: what is cut, where, and that nothing is lost."""

import itertools
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.data.addresses import Source
from steper_ray.data.chunking import cut, passage_spans
from steper_ray.data.documents import Part, document_passages, read_parts
from steper_ray.data.formats import passage_id
from steper_ray.errors import InputError
from steper_ray.sentences import sentences


def parts(text: str, suffix: str) -> list[tuple[str, str]]:
    return [(p.title, p.text) for p in read_parts(text.encode(), suffix, f"x{suffix}", "x")]


def test_passages_by_hand() -> None:
    text = "Aa aa. Bb bb. Cc cc. Dd dd."  # four sentences of six characters
    assert cut(text, 13, 0) == ["Aa aa. Bb bb.", "Cc cc. Dd dd."]
    assert cut(text, 13, 6) == ["Aa aa. Bb bb.", "Bb bb. Cc cc.", "Cc cc. Dd dd."]
    assert cut(text, 20, 12) == ["Aa aa. Bb bb. Cc cc.", "Cc cc. Dd dd."]
    assert cut(text, 20, 13) == ["Aa aa. Bb bb. Cc cc.", "Bb bb. Cc cc. Dd dd."]
    assert cut(text, 6, 5) == ["Aa aa.", "Bb bb.", "Cc cc.", "Dd dd."]
    assert cut(text, 100, 50) == [text]
    assert cut("one two three", 7, 0) == ["one two", "three"]
    assert cut("onetwothree", 4, 0) == ["onet", "woth", "ree"]


TEXTS = st.lists(
    st.sampled_from([*"ab .!?\n\tB", "Dr. ", "word ", "End. ", "。", "A long sentence here. "]),
    max_size=60,
).map("".join) | st.text(max_size=80)


@given(text=TEXTS, size=st.integers(1, 40), share=st.floats(0, 0.99))
def test_cutting_loses_nothing_and_keeps_its_bounds(text: str, size: int, share: float) -> None:
    overlap = int(size * share)
    spans = passage_spans(text, size, overlap)
    covered = {at for start, end in spans for at in range(start, end)}
    assert all(text[at].isspace() for at in range(len(text)) if at not in covered)
    assert all(0 < end - start <= size for start, end in spans)
    for (first, end), (start, last) in itertools.pairwise(spans):
        assert first < start
        assert end < last
        assert end - start <= overlap
    for start, end in sentences(text):
        if end - start <= size:
            assert any(first <= start and end <= last for first, last in spans)


MARKDOWN = """---
title: The Handbook
tags: [a]
---
Before any heading.

## Travel

Trains are *fast* and [cheap](http://x.y).
They run daily.

- one
- two `code`

### Trams

| line | colour |
|------|--------|
| 1    | red    |

```python
x = 1
y = 2
```

## Empty

# Second Part

Text &amp; more<br>here.
"""


def test_markdown() -> None:
    travel = "Trains are fast and cheap. They run daily.\none\ntwo code"
    assert parts(MARKDOWN, ".md") == [
        ("The Handbook", "Before any heading."),
        ("The Handbook › Travel", travel),
        ("The Handbook › Travel › Trams", "line colour\n1 red\nx = 1\ny = 2"),
        ("The Handbook › Empty", "Empty"),
        ("Second Part", "Text & more\nhere."),
    ]
    assert parts("no heading", ".markdown") == [("x", "no heading")]
    assert parts("---\nno: [yaml\n---\ntext", ".md")[0][0] == "x › no: [yaml"
    assert parts("", ".md") == []


HTML = """<!doctype html><html><head><title>A  Page</title><style>p {color: red}</style></head>
<body><nav><a href="/">Home</a></nav><h2>On <em>foxes</em></h2>
<p>Foxes hunt.<script>var x = "<p>no</p>";</script> They
sleep.</p><ul><li>red<li>grey</ul><table><tr><td>a</td><td>b</td></tr></table>
<pre>one
  two</pre><img alt="a fox"><h3>Cubs</h3>
<div>Born in <b>spring</b>.</div><footer>&copy; us</footer></body></html>"""


def test_html() -> None:
    foxes = "Foxes hunt. They sleep.\nred\ngrey\na b\none\ntwo\na fox"
    assert parts(HTML, ".html") == [
        ("A Page › On foxes", foxes),
        ("A Page › On foxes › Cubs", "Born in spring.\n© us"),
    ]
    assert parts("<h1>T</h1>x", ".htm") == [("T", "x")]
    assert parts("<p>a<nav>b<p>c", ".html") == [("x", "a\nb\nc")]  # never closed: kept
    assert parts("<title>T</title>", ".html") == []
    latin = b'<meta charset="iso-8859-1"><p>caf\xe9'
    assert read_parts(latin, ".html", "x", "x") == [Part("x", "café")]


@pytest.mark.parametrize(
    ("text", "suffix", "wanted"),
    [
        (
            "Put a <script> tag in the page.\n\nNot lost.\n\n# Next\n\nAnd <style>, *too*.",
            ".md",
            [("x", "Put a <script> tag in the page.\nNot lost."), ("Next", "And <style>, too.")],
        ),
        (
            "From <script> to </script>, <title> and <template>.\n\nNot lost, </template>.",
            ".md",
            [("x", "From <script> to </script>, <title> and <template>.\nNot lost, </template>.")],
        ),
        ("<script>\nvar x\n\ny\n</script>\n\nKept.", ".md", [("x", "Kept.")]),
        ("<style> rules.\n\nNot lost.", ".md", [("x", "<style> rules. Not lost.")]),
        (
            "<h1>G</h1><p>The <style> element.</p><p>Not lost.</p>",
            ".html",
            [("G", "The <style> element.\nNot lost.")],
        ),
        ("<title>T<p>one</p><p>two</p>", ".html", [("T", "one\ntwo")]),
    ],
)
def test_nothing_is_lost_after_a_tag_that_has_no_end(
    text: str, suffix: str, wanted: list[tuple[str, str]]
) -> None:
    assert parts(text, suffix) == wanted


@pytest.mark.parametrize(
    ("html", "wanted"),
    [
        (
            "<ruby>東京<rp>(</rp><rt>とうきょう</rt><rp>)</rp></ruby>は<ruby>日本<rt>にほん</ruby>の",
            "東京は日本の",
        ),
        ("<ruby>東<rt>とう<rt>x<rb>京<rt>きょう</ruby>は", "東京は"),
        ("The sum <math><mi>x</mi><mo>+</mo><mi>y</mi></math> is small.", "The sum x+y is small."),
        (
            "<math><semantics><mi>x</mi><annotation>{x}</annotation></semantics></math> is",
            "x is",
        ),
        (
            "A <nobr>long word</nobr>, <o:p></o:p>and <my-word>this</my-word>.",
            "A long word, and this.",
        ),
        ("one<button>two</button>three<br>four<hr/>five", "one\ntwo\nthree\nfour\nfive"),
        (
            "10<sup>6</sup>, 1.5×10<sup> −3 </sup> and 5<b>2</b><sup>2</sup>",
            "10^6, 1.5×10^−3 and 52^2",
        ),
        (
            "in 1990<sup>[3]</sup>, 1991<sup><a href=#n>4</a></sup>, 1<sup>st</sup>",
            "in 1990[3], 1991[4], 1st",
        ),
        ("m<sup>2</sup> or 10 <sup>6</sup> or H<sub>2</sub>O", "m2 or 10 6 or H2O"),
        ("10<sup>6<p>7</sup>8", "106\n78"),
    ],
)
def test_what_stands_in_a_line_breaks_none(html: str, wanted: str) -> None:
    assert parts(f"<p>{html}</p>", ".html") == [("x", wanted)]


def test_text() -> None:
    assert parts("\ufeffOne\nline.\r\n\r\n  Another.\n\n\n", ".txt") == [
        ("x", "One line.\nAnother.")
    ]
    assert parts(" \n\n ", ".txt") == []


@pytest.mark.parametrize(
    ("content", "suffix", "said"),
    [
        (b"caf\xe9", ".txt", "invalid UTF-8 at byte 4; save the file as UTF-8"),
        (b'<meta charset="klingon">\xe9', ".html", "unknown encoding 'klingon'"),
        (b'<meta charset="rot13">\xe9', ".html", "unknown encoding 'rot13'"),
        (b'<meta charset="utf-7">\xe9', ".html", "unknown encoding 'utf-7'"),
        ("x y".encode("utf-16"), ".txt", "it looks like UTF-16; save the file as UTF-8"),
    ],
)
def test_a_document_that_cannot_be_decoded(content: bytes, suffix: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        read_parts(content, suffix, "f", "f")
    assert str(caught.value).startswith("f: ")
    assert said in str(caught.value)


WORDS = st.lists(st.sampled_from(["fox", "hen", "Owl", "egg.", "Nest!"]), min_size=1, max_size=12)


@given(
    blocks=st.lists(st.tuples(st.sampled_from(["#", "##", "###", "-", ""]), WORDS), max_size=8),
    size=st.integers(5, 60),
)
def test_every_word_of_a_document_is_in_its_passages(
    blocks: list[tuple[str, list[str]]], size: int
) -> None:
    text = "\n\n".join(f"{sign} {' '.join(words)}".strip() for sign, words in blocks)
    found = read_parts(text.encode(), ".md", "x", "x")
    passages = [(p.title, t) for p in found for t in cut(p.text, size, size // 3)]
    everything = " ".join(f"{title} {text}" for title, text in passages)
    for _, words in blocks:
        assert all(word in everything for word in words)
    assert all(len(text) <= size for _, text in passages)


def test_a_passage_s_id_changes_only_with_the_passage(tmp_path: Path) -> None:
    file = tmp_path / "guide.md"
    source = Source(str(tmp_path), str(file), "docs/guide.md")
    file.write_text("# A\n\nFoxes hunt.\n\n# B\n\nOwls sleep.\n\nOwls sleep.\n")
    before = document_passages(source, 12, 0)
    assert [(p.title, p.text) for p in before] == [("A", "Foxes hunt."), ("B", "Owls sleep.")]
    assert before[0].id == f"docs/guide.md#{passage_id('A', 'Foxes hunt.')}"
    file.write_text("# New\n\nHens peck.\n\n" + file.read_text())
    after = document_passages(source, 12, 0)
    assert after[1:] == before


def test_a_label_that_lies_is_no_hindrance() -> None:
    for label in ("iso-8859-1", "utf-16", "klingon", "unicode_escape"):
        page = f'<meta charset="{label}"><p>caf\u00e9'.encode()
        assert read_parts(page, ".html", "x", "x") == [Part("x", "caf\u00e9")], label
    # browsers read Windows-1252 for Latin-1, and its quotes are common
    page = b'<meta charset="latin1"><p>\x93caf\xe9\x94'
    assert read_parts(page, ".html", "x", "x") == [Part("x", "\u201ccaf\u00e9\u201d")]


@pytest.mark.parametrize(
    ("front", "title"),
    [
        ("title: 1984", "1984"),
        ("title: x\ndate: 2024-99-99", "x"),
        ("title: no\nn: 1e999999999", "no"),
        ("title: x\na: !!python/object:os.system x", "x"),
        ("a: &a [y]\nb: *a\ntitle: x", "x"),
    ],
)
def test_front_matter_is_text(front: str, title: str) -> None:
    assert parts(f"---\n{front}\n---\ntext", ".md") == [(title, "text")]


def test_front_matter_that_is_no_yaml_is_text() -> None:
    for front in ("[" * 1000, "a: &a [*a]", "no: [yaml"):
        ((_, text),) = parts(f"---\n\n{front}\n\n---\ntext", ".md")
        assert text.endswith("text"), front[:20]


def test_long_headings_do_not_make_a_document_many_times_as_large() -> None:
    heading, words = "word " * 2000, "\n\n".join(f"Sentence number {at}." for at in range(2000))
    text = f"# {heading}\n\n## {heading}\n\n{words}\n"
    found = read_parts(text.encode(), ".md", "x", "x")
    passages = [(part.title, cut_) for part in found for cut_ in cut(part.text, 60, 0)]
    assert max(len(title) for title, _ in passages) == 200
    assert sum(len(title) + len(text) for title, text in passages) < 6 * len(text)
    # the whole heading can be found
    assert sum(text.count("word") for _, text in passages) == 4000
    deep = "\n\n".join(f"{'#' * level} {'abcdefgh ' * 8}" for level in range(1, 7)) + "\n\nx"
    assert parts(deep, ".md")[-1] == (" › ".join(["abcdefgh " * 7 + "abcdefgh"] * 2), "x")


SLOW = {
    ".html": [
        "<a ",
        "<!--",
        "<![CDATA[",
        "<a =",
        '<a b="x" ',
        '<a b=">"',
        "</a ",
        "<?",
        "<title>",
        "<script>",
        "<ruby>1<rt>",
        "1<sup>2</sup>",
        "<sup>",
        "&#",
    ],
    ".txt": ["a", ". ", "....", "| --- ", "。", "\n", "Chapter ......... 5\n", '."'],
}


@pytest.mark.parametrize(
    ("suffix", "piece"), [(suffix, piece) for suffix, pieces in SLOW.items() for piece in pieces]
)
def test_reading_takes_time_by_the_length(suffix: str, piece: str) -> None:
    def seconds(length: int) -> float:
        text = piece * (length // len(piece))
        started = time.process_time()
        for part in read_parts(text.encode(), suffix, "x", "x"):
            cut(part.text, 600, 100)
        return time.process_time() - started

    # by the square it would be 16 times, from seconds to minutes
    assert seconds(400_000) < 8 * seconds(100_000) + 0.5


def test_a_document_has_a_limit_of_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steper_ray.data.documents.MAX_SECONDS", 0.05)
    file = tmp_path / "slow.md"
    file.write_text("![" * 100_000)
    with pytest.raises(InputError, match=r"slow\.md: takes more than 0\.05 s to read"):
        document_passages(Source(str(file), str(file), file.name), 600, 100)
    file.write_text("fast")
    assert len(document_passages(Source(str(file), str(file), file.name), 600, 100)) == 1


def test_a_document_has_a_limit_of_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steper_ray.data.documents.MAX_DOCUMENT", 1 << 20)
    file = tmp_path / "large.txt"
    file.write_text("x" * (1 << 20) + "y")
    with pytest.raises(InputError, match=r"large\.txt: more than 1 MiB; divide it"):
        document_passages(Source(str(file), str(file), file.name), 600, 100)
