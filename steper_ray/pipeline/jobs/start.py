"""What a submitted job runs first, on the cluster: compares versions, puts carried files in place.

Then it becomes the command itself. A copy of this file travels with the job and is run as a script, so it
imports nothing of the package, which the cluster may lack. Its lines are the first of the job's log.
"""

import json
import os
import platform
import secrets
import shutil
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import NoReturn

JOB_FILE = "job.json"


RUN_FILE = "run.yaml"


CARRIED = "carried"
"""Folder of the carried files in the working directory of the job, by the digest of their content."""


SUBMITTED = "submitted"
"""Where they are put, in the run folder."""


def version_lines(
    versions: Mapping[str, str], packages: Sequence[str], found: Mapping[str, str]
) -> list[str]:
    """What this machine lacks or has in another version, in at most one line each.

    versions: of python, ray and steper_ray where the job was submitted
    packages: distributions that the job needs
    found:    versions of all of them here; one that is missing is not in it
    """
    lines = []
    others = [
        f"{name} {found[name]} instead of {version}"
        for name, version in versions.items()
        if name in found and found[name] != version
    ]
    if others:
        lines.append(
            f"the cluster has other versions than the machine that submitted: {', '.join(others)}; if the "
            "stage fails for it, install the same ones, or submit with --pip-lock"
        )
    if missing := [name for name in packages if name not in found]:
        lines.append(
            f"the cluster lacks packages: {', '.join(missing)}; install them on every node, or submit with "
            "--pip-lock"
        )
    return lines


def find_versions(names: Sequence[str]) -> dict[str, str]:
    """Versions of this Python and of distributions that are installed."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if util.find_spec("steper_ray") is not None:  # carried, or on the path without being installed
        found["steper_ray"] = __import__("steper_ray").__version__
    return found


def place_files(carried: Path, folder: Path) -> int:
    """Copy what the job carries into the run folder, each digest whole or not at all; how many are new."""
    count = 0
    for source in sorted(carried.glob("*")):
        target = folder / SUBMITTED / source.name
        if target.exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{source.name}.{secrets.token_hex(8)}.partial")
        shutil.copytree(source, partial)
        try:
            partial.rename(target)
            count += 1
        except OSError:  # another job was faster
            shutil.rmtree(partial, ignore_errors=True)
            if not target.exists():
                raise
    return count


def become(command: Sequence[str]) -> NoReturn:
    """Replace this process by `steper` with these words."""
    os.execv(sys.executable, [sys.executable, "-m", "steper_ray", *command])


def main() -> int:
    """Check, copy, and become the command; an exit code where it does not come to that."""
    here = Path(__file__).resolve().parent
    job = json.loads((here / JOB_FILE).read_text(encoding="utf-8"))
    found = find_versions([*job["versions"], *job["packages"]])
    for line in version_lines(job["versions"], job["packages"], found):
        print(f"steper submit: {line}", flush=True)
    if "steper_ray" not in found:
        print(
            f"steper submit: {sys.executable} on the cluster has no steper_ray; start Ray in the "
            "environment that has it, or submit with --pip-lock",
            flush=True,
        )
        return 2
    folder = Path(job["folder"])
    try:
        place_files(here / CARRIED, folder)
    except OSError as error:
        print(
            f"steper submit: run.dir: {folder} cannot be written to on the cluster ({error.strerror}); "
            "name a folder on storage that every node mounts",
            flush=True,
        )
        return 2
    become([*job["command"], "--config", str(here / RUN_FILE)])


if __name__ == "__main__":
    sys.exit(main())
