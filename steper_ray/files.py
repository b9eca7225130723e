"""Writes a text file so that a reader finds the old one or the new one, whole."""

import os
import shutil
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


def link_to(folder: Path, link: Path) -> None:
    """Make the folder beside it what a link leads to, whatever was there."""
    partial = link.with_name(f".{link.name}.partial")
    partial.unlink(missing_ok=True)
    partial.symlink_to(folder.name)
    if link.is_dir() and not link.is_symlink():  # a corpus that was copied there
        shutil.rmtree(link)
    partial.replace(link)
