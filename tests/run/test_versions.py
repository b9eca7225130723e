"""Students and corpora in versions: which stay, which go, and what NFS does with files that are open."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from steper_ray.run import versions as module
from steper_ray.run.versions import (
    in_use,
    is_used,
    name_of,
    place_version,
    remove_old_versions,
    remove_versions,
    use,
    version_folder,
    versions,
)

USE = """
import sys, time
from pathlib import Path
from steper_ray.run.versions import use
use(Path(sys.argv[1]))
print("used", flush=True)
time.sleep(60)
"""
FIRST, SECOND, THIRD = ("0a" * 6, "1b" * 6, "2c" * 6)


def make(link: Path, identity: str) -> Path:
    """A new version, made as training and indexing do."""
    remove_old_versions(link)
    folder = version_folder(link, identity)
    folder.mkdir(parents=True)
    (folder / "weights").write_text(identity)
    place_version(link, folder)
    return folder


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["student", "corpus.lance"])
def test_the_newest_and_the_one_before_it_stay(tmp_path: Path, name: str) -> None:
    link = tmp_path / name
    for identity in (FIRST, SECOND, THIRD):
        folder = make(link, identity)
        assert (link.resolve(), name_of(folder)) == (folder, name)
    assert names(tmp_path) == {name, *(version_folder(link, i).name for i in (SECOND, THIRD))}
    (tmp_path / "students-notes").mkdir()
    (tmp_path / "student-mine").mkdir()
    remove_versions(link)
    assert names(tmp_path) == {"students-notes", "student-mine"}


def test_a_plain_folder_of_an_earlier_version_of_steper_ray_becomes_an_older_version(
    tmp_path: Path,
) -> None:
    link = tmp_path / "student"
    link.mkdir()
    (link / "weights").write_text("old")
    assert versions(link) == []
    folder = make(link, FIRST)
    assert link.resolve() == folder
    (before,) = set(versions(link)) - {folder}
    assert (before / "weights").read_text() == "old"
    remove_versions(link)
    link.mkdir()
    remove_versions(link)
    assert names(tmp_path) == set()


def test_a_version_that_a_process_uses_stays_until_the_process_is_dead(tmp_path: Path) -> None:
    link = tmp_path / "student"
    first = make(link, FIRST)
    server = subprocess.Popen(
        [sys.executable, "-c", USE, str(first)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "used\n"
        make(link, SECOND)
        make(link, THIRD)
        assert (first / "weights").read_text() == FIRST
    finally:
        server.kill()
        server.wait()
    make(link, FIRST[::-1])
    assert {folder.name for folder in versions(link)} == {
        f"student-{THIRD}",
        f"student-{FIRST[::-1]}",
    }
    assert not list(tmp_path.glob(".*"))


def test_a_user_on_another_machine_is_judged_by_the_clock_of_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "student", FIRST)
    lease = use(folder)
    assert lease is not None
    (file,) = (tmp_path / f".{folder.name}.in-use").glob("*.lease")
    monkeypatch.setattr("steper_ray.run.lock.this_machine", lambda: "elsewhere")
    assert is_used(folder)
    now = file.stat().st_mtime
    os.utime(file, (now, now - module.SILENT_S + 60))
    assert is_used(folder)
    os.utime(file, (now, now - module.SILENT_S - 60))
    assert not is_used(folder)
    lease.release()


def test_only_versions_are_marked_and_nothing_fails_where_no_mark_can_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = tmp_path / "llama"
    foreign.mkdir()
    with in_use(foreign):
        assert names(tmp_path) == {"llama"}
    gone = tmp_path / "no" / f"student-{FIRST}"
    with in_use(gone):
        assert "cannot be marked as in use" in caplog.text


def test_on_nfs_a_version_with_open_files_goes_when_they_are_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS client renames a file that is removed while it is open, and its folder cannot be removed."""
    link, unlink = tmp_path / "corpus.lance", os.unlink
    make(link, FIRST)
    make(link, SECOND)

    def silly_rename(path: Any, *, dir_fd: int | None = None) -> None:
        if str(path).startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        os.rename(path, f".nfs{path}", src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    monkeypatch.setattr(os, "unlink", silly_rename)
    third = make(link, THIRD)
    assert (link.resolve(), len(versions(link))) == (third, 2)
    (stays,) = tmp_path.glob(".corpus-*.partial")
    assert names(stays) == {".nfsweights"}
    remove_old_versions(link)
    assert stays.is_dir()
    monkeypatch.setattr(os, "unlink", unlink)
    remove_old_versions(link)
    assert names(tmp_path) == {"corpus.lance", third.name}


def test_a_lease_says_who_holds_a_version(tmp_path: Path) -> None:
    folder = make(tmp_path / "student", FIRST)
    with in_use(folder):
        (file,) = (tmp_path / f".{folder.name}.in-use").glob("*.lease")
        assert json.loads(file.read_text())["pid"] == os.getpid()
