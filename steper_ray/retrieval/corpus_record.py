"""The record inside an indexed corpus: its version, its size and the settings it was indexed with.

A search takes its settings from this record and not from the run file, so that a query never runs with
other settings than the index was built with.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from steper_ray.errors import InputError
from steper_ray.run.section import Section

CORPUS_FILE: Final = "steper_corpus.json"
"""The record's name in the corpus folder."""


@dataclass(frozen=True, slots=True)
class CorpusRecord:
    """What an indexed corpus says of itself."""

    version: str
    passages: int
    retriever: dict[str, Any]
    """Settings of the retriever that it was indexed for, `type` included."""


def read_corpus_record(folder: Path | str) -> CorpusRecord:
    """The record of a corpus; raises InputError for a folder that `steper index` has not made."""
    file = Path(folder) / CORPUS_FILE
    try:
        return CorpusRecord(**json.loads(file.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{folder}: not an indexed corpus; run `steper index` first") from None
    except (TypeError, ValueError):
        raise InputError(f"{file}: not the record of a corpus; run `steper index` again") from None


def write_corpus_record(folder: Path, record: CorpusRecord) -> None:
    """Write the record into a corpus folder."""
    (folder / CORPUS_FILE).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def version_of(content: int, retriever: Section) -> str:
    """Version of a corpus: 16 hexadecimal digits of its passages and its retriever's settings.

    content: sum of the passages' hashes (whatever their order)
    """
    settings = retriever.model_dump_json()
    return hashlib.sha256(f"{content} {settings}".encode()).hexdigest()[:16]
