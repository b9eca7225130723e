"""Passages of a corpus that are longer than a prompt takes: the loop will cut them when it finds them."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import pyarrow as pa

CHARACTERS_PER_TOKEN: Final = 3
"""For an estimate without a tokenizer; few, so that a corpus is rather warned of than not."""


def long_passage_lines(folder: Path, limit: int) -> list[str]:
    """A line that says how many passages of a corpus have more than `limit` tokens, and which has most.

    Empty if none has, or if `limit` is 0.
    """
    import lance

    if not limit:
        return []
    return _lines(lance.dataset(str(folder)).to_batches(columns=["id", "title", "text"]), limit)


def _lines(batches: Iterable["pa.RecordBatch"], limit: int) -> list[str]:
    import pyarrow.compute as pc

    many, longest, longest_id = 0, 0, ""
    for batch in batches:
        lengths = pc.add(pc.utf8_length(batch["title"]), pc.utf8_length(batch["text"]))
        many += pc.sum(pc.greater(lengths, limit * CHARACTERS_PER_TOKEN)).as_py() or 0
        if batch.num_rows and (most := pc.max(lengths).as_py()) > longest:
            longest, longest_id = most, batch["id"][pc.index(lengths, most).as_py()].as_py()
    if not many:
        return []
    tokens = longest // CHARACTERS_PER_TOKEN
    line = (
        f"{many:,} passage{'' if many == 1 else 's'} of more than {limit:,} tokens "
        f"(reasoning.max_passage_tokens), as {longest_id!r} with about {tokens:,}: only the first "
        "sentences will be read; lower corpus.passage_size, or give shorter passages"
    )
    return [line]
