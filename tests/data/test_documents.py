"""Documents → passages: what is cut, where, and that nothing is lost."""

import itertools
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


def test_text() -> None:
    assert parts("\ufeffOne\nline.\r\n\r\n  Another.\n\n\n", ".txt") == [
        ("x", "One line.\nAnother.")
    ]
    assert parts(" \n\n ", ".txt") == []


@pytest.mark.parametrize(
    ("content", "suffix", "said"),
    [
        (b"caf\xe9", ".txt", "invalid UTF-8 at byte 4; save the file as UTF-8"),
        (b'<meta charset="klingon">', ".html", "unknown encoding 'klingon'"),
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
