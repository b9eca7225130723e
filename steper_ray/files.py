"""Writes a text file so that a reader finds the old one or the new one, whole."""

import os
from pathlib import Path


def write_whole(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write UTF-8 text to `path`; it appears there whole or not at all, and nothing else is left.

    errors: what becomes of half a surrogate pair, which UTF-8 has no bytes for (as in `str.encode`)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors=errors)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
