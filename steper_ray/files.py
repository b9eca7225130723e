"""Files, folders and links that appear whole or not at all.

Each is made beside its place under a hidden name that nobody can guess, and renamed when it is whole: a
reader finds the old one or the new one, and what breaks off in the middle leaves the old one. Temporary
files are opened so that a link planted under their name is an error (O_EXCL, O_NOFOLLOW), and get the
permissions that their process gives new files (umask), not a temporary file's.
"""

import glob
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def new_file(
    path: Path, *, encoding: str | None = "utf-8", errors: str = "strict"
) -> Iterator[Any]:
    """A file to write to, which takes the place of `path` when the block ends without an error.

    encoding: None opens it for bytes
    errors:   what becomes of half a surrogate pair, which UTF-8 has no bytes for (as in `str.encode`)
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _beside(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
    descriptor = os.open(partial, flags, 0o666)
    try:
        if encoding is None:
            opened: Any = os.fdopen(descriptor, "wb")
        else:
            opened = os.fdopen(descriptor, "w", encoding=encoding, errors=errors)
        with opened as file:
            yield file
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, text: str, *, errors: str = "strict") -> None:
    """Write UTF-8 text to `path`; see `new_file`."""
    with new_file(path, errors=errors) as file:
        file.write(text)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill, which takes the place of `path` when the block ends without an error.

    What a killed process left of an earlier one is removed first: a folder has one writer at a time.
    The old folder is moved aside just before the new one gets its name; between the two renames there
    is neither.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent, glob.escape(path.name))
    partial = _beside(path)
    partial.mkdir()
    try:
        yield partial
        old = _beside(path)
        if path.is_dir() and not path.is_symlink():
            path.rename(old)
        else:
            path.unlink(missing_ok=True)
        partial.rename(path)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def files_below(folder: Path) -> Iterator[Path]:
    """Every file of a folder at any depth, sorted; what is hidden is left out."""
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(names) if not name.startswith("."))


def remove_folder(folder: Path) -> bool:
    """Remove a folder of which files may be open somewhere; returns whether nothing of it is left.

    NFS keeps a removed file that is still open as `.nfs…`, and with it its folder, until it is closed. So
    the folder loses its name first, and what stays of it is removed by a later `remove_leftovers`.
    """
    hidden = _beside(folder)
    folder.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)
    return not hidden.exists()


def remove_leftovers(parent: Path, names: str) -> None:
    """Remove what earlier folders left in `parent`: unfinished ones, and removed ones with open files.

    names: a pattern of the folders' names
    What still has open files stays.
    """
    for leftover in parent.glob(f".{names}.*.partial"):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)


def replace_link(link: Path, target: Path) -> None:
    """Make `link` lead to a folder beside it, whatever was there: another link, a folder, nothing."""
    partial = _beside(link)
    partial.symlink_to(target.name)
    if link.is_dir() and not link.is_symlink():
        shutil.rmtree(link)
    partial.replace(link)


def _beside(path: Path) -> Path:
    """A hidden name beside `path` that nobody can guess."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
