"""What replaces files, folders and links: whole or not at all, never through a planted link."""

import os
import stat
from pathlib import Path
from threading import Thread

import pytest

from steper_ray.files import new_file, new_folder, replace_link, write_whole


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_appears_whole_with_the_permissions_of_a_new_file(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b.json"
    before = os.umask(0o027)
    try:
        write_whole(target, "one\n")
    finally:
        os.umask(before)
    assert (target.read_text(), stat.S_IMODE(target.stat().st_mode)) == ("one\n", 0o640)
    assert names(target.parent) == {"b.json"}


def test_a_write_that_breaks_off_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "b.bin"
    target.write_bytes(b"old")

    def break_off() -> None:
        with new_file(target, encoding=None) as file:
            file.write(b"half")
            assert target.read_bytes() == b"old"
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        break_off()
    assert (target.read_bytes(), names(tmp_path)) == (b"old", {"b.bin"})


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    victim, target = tmp_path / "victim", tmp_path / "b"
    victim.write_text("precious")
    target.symlink_to(victim)
    write_whole(target, "new")
    assert (victim.read_text(), target.read_text(), target.is_symlink()) == (
        "precious",
        "new",
        False,
    )


def test_a_link_planted_under_the_temporary_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda _bytes: "guessed")
    (tmp_path / ".b.guessed.partial").symlink_to(victim)
    with pytest.raises(FileExistsError):
        write_whole(tmp_path / "b", "evil")
    assert victim.read_text() == "precious"


def test_writers_at_the_same_time_leave_one_whole_file(tmp_path: Path) -> None:
    target, texts = tmp_path / "b", [str(number) * 100_000 for number in range(8)]
    threads = [Thread(target=write_whole, args=(target, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert target.read_text() in texts
    assert names(tmp_path) == {"b"}


def test_a_folder_is_replaced_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "a"
    with new_folder(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()

    def break_off() -> None:
        with new_folder(target) as folder:
            (folder / "y").write_text("2")
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        break_off()
    assert names(target) == {"x"}
    (tmp_path / ".a.0123.partial").mkdir()  # of a killed process
    with new_folder(target) as folder:
        (folder / "z").write_text("3")
    assert (names(target), names(tmp_path)) == ({"z"}, {"a"})


def test_a_folder_takes_the_place_of_a_link_and_leaves_what_it_led_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "x").write_text("1")
    (tmp_path / "a").symlink_to(kept)
    with new_folder(tmp_path / "a") as folder:
        (folder / "y").write_text("2")
    assert (names(kept), names(tmp_path / "a")) == ({"x"}, {"y"})
    assert not (tmp_path / "a").is_symlink()


@pytest.mark.parametrize("before", ["nothing", "link", "folder"])
def test_a_link_leads_to_the_new_folder_whatever_was_there(tmp_path: Path, before: str) -> None:
    link, old, new = tmp_path / "a", tmp_path / "old", tmp_path / "new"
    for folder in (old, new):
        folder.mkdir()
    if before == "link":
        link.symlink_to(old.name)
    elif before == "folder":
        (link / "inside").mkdir(parents=True)
    replace_link(link, new)
    assert (link.resolve(), link.readlink()) == (new, Path("new"))
    assert names(tmp_path) == {"a", "old", "new"}
