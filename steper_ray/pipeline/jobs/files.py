"""What a submitted job carries: run file, local files that it names, and the script that places them.

Ray unpacks a job's working directory below a name made of its content, which changes with every edit. So no
setting may lead there: carried files are copied to `submitted/` in the run folder before the stage starts,
below a digest of their own content. The same files have the same path in every submission, and others
another one, so that what was made with them stays up to date or does not.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from steper_ray.errors import InputError
from steper_ray.pipeline.jobs import start
from steper_ray.pipeline.jobs.named_files import NamedFiles, find_files, named_paths
from steper_ray.pipeline.jobs.start import CARRIED, JOB_FILE, RUN_FILE, SUBMITTED
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import map_texts, run_file_text

MAX_CARRIED: Final = 500 * 2**20
"""Bytes of all files that a job may carry; Ray takes packages of less than 512 MiB by default."""


ROWS: Final = ("corpus", "questions", "train.mix")
"""Settings below these name files and nothing else, so a relative path that leads nowhere is a mistake."""


NEVER_CARRIED: Final = {
    "run.dir": "name a folder on storage that every node of the cluster mounts",
    "run.data": "name the other run's folder as every node of the cluster mounts it",
    "train.offload_dir": "name a folder on a local disk of every node",
    "serve.keys_file": "a job carries no keys, so that one that is revoked in the file counts no more; "
    "keep the file on storage that the cluster mounts, and name it there",
}
"""Settings whose paths are the cluster's → what to do about a relative one, which the job would look for in
its own working directory."""


_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
"""Time of every file in the package: its content alone decides its name."""


@dataclass(frozen=True, slots=True)
class CarriedFiles:
    """The files of one setting, and their place in the package and below `submitted/`."""

    named: NamedFiles
    digest: str

    def place(self, file: Path) -> str:
        """Path of one of the files."""
        named = self.named
        below = PurePosixPath(file.relative_to(named.base).as_posix())
        inside = below if named.is_pattern else PurePosixPath(named.base.name) / below
        return f"{self.digest}/{inside}"

    @property
    def target(self) -> str:
        """What the setting names, there."""
        named = self.named
        if named.is_pattern:
            pattern = Path(named.address).expanduser().absolute().relative_to(named.base)
            return f"{self.digest}/{pattern.as_posix()}"
        return f"{self.digest}/{named.base.name}"


def find_carried(values: Mapping[str, Any], shared: Sequence[str] = ()) -> list[CarriedFiles]:
    """The local files that a run file names and that the cluster does not have.

    Those are all that exist here and lie neither below the run folder nor below one of `shared`.

    values: from `load_values`
    Raises InputError for more than MAX_CARRIED, and for a relative path with nothing behind it, or to what
    is never carried.
    """
    for setting in NEVER_CARRIED:
        _check_absolute(values, setting)
    folders = [Path(folder).expanduser().absolute() for folder in (run_folder(values), *shared)]
    local: list[NamedFiles] = []
    for setting, address in named_paths(values).items():
        found = find_files(setting, address)
        if found is None:
            _check_missing(setting, address)
        elif not any(found.base.is_relative_to(folder) for folder in folders):
            local.append(found)
    check_size(local)
    return [CarriedFiles(named, _content_digest(named)) for named in local]


def run_folder(values: Mapping[str, Any]) -> str:
    """The run folder of a submission. Raises InputError where it is not absolute."""
    if not (folder := _check_absolute(values, "run.dir")):
        raise InputError(
            f"run.dir: not set: must be absolute in a submission; {NEVER_CARRIED['run.dir']}"
        )
    return str(Path(folder))


def _check_absolute(values: Mapping[str, Any], setting: str) -> str:
    """The path of one of NEVER_CARRIED, empty where it is not set. Raises InputError if it is relative."""
    section, key = setting.split(".")
    path = str((values.get(section) or {}).get(key) or "")
    if path and not Path(path).is_absolute():
        raise InputError(
            f"{setting}: {path}: must be absolute in a submission; {NEVER_CARRIED[setting]}"
        )
    return path


def _check_missing(setting: str, address: str) -> None:
    rows = any(setting.startswith(f"{name}.") for name in ROWS)
    remote = "://" in address or address.startswith(("hf:", "/", "~"))
    if rows and not remote:
        raise InputError(
            f"{setting}: {address} does not exist here, and a relative path leads nowhere on the cluster; "
            "correct it, or give the absolute path there"
        )


def check_size(local: Sequence[NamedFiles]) -> None:
    """Raises InputError for more files than a job may carry, naming the largest."""
    total = sum(named.size for named in local)
    if total <= MAX_CARRIED:
        return
    largest = max(local, key=lambda named: named.size)
    raise InputError(
        f"{largest.setting}: {largest.address} has {size_text(largest.size)}, and a job carries at most "
        f"{size_text(MAX_CARRIED)} (all files here: {size_text(total)}); put it on storage that "
        "every node mounts, and name it there, with --shared FOLDER if this machine mounts it too"
    )


def size_text(size: int) -> str:
    """Bytes in KiB or MiB."""
    if size < 2**20:
        return f"{size / 2**10:,.1f} KiB"
    return f"{size / 2**20:,.1f} MiB"


def _content_digest(named: NamedFiles) -> str:
    """Sixteen hexadecimal digits of the names and contents of the files, and of the folder's name."""
    whole = hashlib.sha256(b"" if named.is_pattern else os.fsencode(named.base.name))
    for file in named.files:
        with file.open("rb") as opened:
            content = hashlib.file_digest(opened, "sha256").hexdigest()
        whole.update(
            f"{file.relative_to(named.base)}\0{content}\n".encode("utf-8", "surrogatepass")
        )
    return whole.hexdigest()[:16]


def rewritten(values: Mapping[str, Any], carried: Sequence[CarriedFiles]) -> str:
    """The text of the job's run file: what is carried is named where it is put on the cluster."""
    folder = run_folder(values)
    targets = {one.named.setting: f"{folder}/{SUBMITTED}/{one.target}" for one in carried}

    def change(text: str, _kind: Any, place: str) -> str:
        return targets.get(place, text)

    return run_file_text(map_texts(values, RunConfig, change))


def write_package(
    file: Path,
    values: Mapping[str, Any],
    carried: Sequence[CarriedFiles],
    *,
    command: Sequence[str],
    versions: Mapping[str, str],
    packages: Sequence[str],
) -> None:
    """Write the working directory of a job as a zip file.

    command:  what follows `steper`
    versions: of python, ray and steper_ray on this machine
    packages: distributions that the job needs
    """
    job = {
        "command": list(command),
        "folder": run_folder(values),
        "versions": dict(versions),
        "packages": sorted(packages),
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as package:
        script = Path(start.__file__)
        _add(package, script.name, script.read_bytes())
        _add(package, JOB_FILE, json.dumps(job, indent=2).encode())
        _add(package, RUN_FILE, rewritten(values, carried).encode("utf-8", "surrogatepass"))
        written = set()
        for one in carried:
            for path in one.named.files:
                if (place := f"{CARRIED}/{one.place(path)}") not in written:
                    written.add(place)
                    _add(package, place, path.read_bytes())


def _add(package: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    package.writestr(entry, content)
