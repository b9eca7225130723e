"""Folders in versions: `student-<identity>/` and `corpus-<id>.lance`, each behind a link to the newest.

Whoever opens one resolves the link once and goes on with that version, however often it is opened again:
a replica that restarts loads what it had served. While a process uses a version it holds a lease beside
it (`.<version>.in-use/`). A new version is made beside the others; those that are neither the newest nor
in use are removed when the next one is made.
"""

import logging
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from steper_ray.files import files_below, remove_folder, remove_leftovers, replace_link
from steper_ray.run.lock import Lease, read_owner

logger = logging.getLogger(__name__)

VERSION: Final = re.compile(r"(student|corpus)-[0-9a-f]{8,16}(\.lance)?")
"""Name of a version's folder; the link's name is that without the identity."""


CARD: Final = "README.md"
"""A model's card."""


SILENT_S: Final = 600.0
"""Seconds without a touch after which a user on another machine no longer keeps a version. Both ends are
stamped by the storage, whose clock is one."""


BEAT_S: Final = 30.0
"""Seconds between two touches of a user's lease."""


def version_folder(link: Path, identity: str) -> Path:
    """The folder of a version, beside the link to the newest."""
    return link.with_name(f"{link.stem}-{identity}{link.suffix}")


def name_of(folder: Path) -> str:
    """The name by which a folder is known, whichever version of it this is."""
    match = VERSION.fullmatch(folder.name)
    return folder.name if match is None else match[1] + (match[2] or "")


def file_sizes(folder: Path) -> dict[str, int]:
    """Path below a folder → bytes, of every file: what is held against it later, to notice damage.

    Without the card of a student, into which evaluations write their scores.
    """
    return {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in files_below(folder)
        if file.name != CARD
    }


def place_version(link: Path, version: Path) -> None:
    """Make a version the newest. A plain folder in the place of the link becomes an older version."""
    if link.is_dir() and not link.is_symlink():
        link.rename(version_folder(link, secrets.token_hex(6)))
    replace_link(link, version)


def remove_old_versions(link: Path) -> None:
    """Remove the versions that are neither the newest nor in use, and what is left of earlier ones."""
    remove_leftovers(link.parent, f"{link.stem}-*{link.suffix}")
    newest = link.resolve()
    for folder in versions(link):
        if folder.resolve() == newest:
            continue
        if is_used(folder):
            logger.info("%s is in use and stays", folder)
        elif not _removed(folder):
            logger.info("%s cannot be removed whole now; what stays of it is removed later", folder)


def remove_versions(link: Path) -> None:
    """Remove a link and all its versions; or the plain folder in its place."""
    if link.is_symlink():
        link.unlink()
    shutil.rmtree(link, ignore_errors=True)
    remove_old_versions(link)


def versions(link: Path) -> list[Path]:
    """The folders of all versions."""
    folders = link.parent.glob(f"{link.stem}-*{link.suffix}")
    return sorted(folder for folder in folders if VERSION.fullmatch(folder.name))


def use(folder: Path) -> Lease | None:
    """Hold a version, so that it stays until the lease is released or this process is dead.

    None for a folder that is no version, and for one beside which nothing can be written: it is then used
    unheld.
    """
    if not VERSION.fullmatch(folder.name):
        return None
    users = _users(folder)
    try:
        users.mkdir(exist_ok=True)
        return Lease(users / f"{secrets.token_hex(8)}.lease", beat_s=BEAT_S)
    except OSError as error:
        logger.warning("%s cannot be marked as in use (%s): keep it yourself", folder, error)
        return None


@contextmanager
def in_use(link: Path) -> Iterator[Path]:
    """Hold the version that a link leads to now, while the block runs; gives its folder. See `use`."""
    folder = link.resolve()
    lease = use(folder)
    try:
        yield folder
    finally:
        if lease is not None:
            lease.release()


def is_used(folder: Path) -> bool:
    """Whether a living process holds a version; in doubt it does. Leases of dead ones are removed."""
    users = _users(folder)
    if not users.is_dir():
        return False
    try:
        return _has_living(users)
    except OSError as error:  # as of another user's files
        logger.warning("%s cannot be looked at: %s", users, error)
        return True


def _has_living(users: Path) -> bool:
    """Whether one of the leases in a folder is of a living process."""
    with tempfile.NamedTemporaryFile(dir=users) as probe:
        now = Path(probe.name).stat().st_mtime
        for file in users.glob("*.lease"):
            owner = read_owner(file)
            here = owner is not None and owner.is_here
            with suppress(FileNotFoundError):
                silent = now - file.stat().st_mtime > SILENT_S
                if owner.runs if owner is not None and here else not silent:
                    return True
                file.unlink()
    with suppress(OSError):
        users.rmdir()
    return False


def _removed(folder: Path) -> bool:
    """Remove a version; whether nothing of it is left. No work fails because an old version stays."""
    try:
        return remove_folder(folder)
    except OSError:
        return False


def _users(folder: Path) -> Path:
    """The folder of the leases on a version."""
    return folder.with_name(f".{folder.name}.in-use")
