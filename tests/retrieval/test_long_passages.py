"""What `steper index` says of passages that no prompt takes whole."""

from pathlib import Path

import pyarrow as pa
import pytest

from steper_ray.arrow import PASSAGE_SCHEMA
from steper_ray.retrieval.long_passages import long_passage_lines


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Passages of 1,500, 1,501 and 3,000 characters with their titles, in two fragments."""
    rows = [
        {"id": "a", "title": "Rome", "text": "é" * 1496},
        {"id": "b", "title": "Ada", "text": "x" * 1498},
        {"id": "c", "title": "", "text": "x" * 3000},
    ]
    import lance

    for part in (rows[1:], rows[:1]):
        table = pa.Table.from_pylist(part, schema=PASSAGE_SCHEMA)
        lance.write_dataset(table, tmp_path / "corpus.lance", mode="append")
    return tmp_path / "corpus.lance"


def test_the_longest_of_the_long_passages_is_named(corpus: Path) -> None:
    (line,) = long_passage_lines(corpus, 500)
    assert line == (
        "2 passages of more than 500 tokens (reasoning.max_passage_tokens), as 'c' with about 1,000: only "
        "the first sentences will be read; lower corpus.passage_size, or give shorter passages"
    )
    (line,) = long_passage_lines(corpus, 999)
    assert line.startswith("1 passage of more than 999 tokens")


def test_nothing_is_said_where_all_are_read_whole(corpus: Path) -> None:
    assert long_passage_lines(corpus, 1000) == []
    assert long_passage_lines(corpus, 0) == []
