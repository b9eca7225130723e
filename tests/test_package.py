"""What an installed package promises: its command, its pins, its make targets."""

import importlib
import os
import runpy
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from steper_ray.pipeline.commands import all_commands

ROOT: Final = Path(__file__).parent.parent
STEPER: Final = Path(sys.executable).parent / "steper"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"])


def read_lock(name: str) -> dict[str, str]:
    """Canonical name → version of every package of a lock file."""
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    pins = [line.split("==") for line in lines if not line.startswith("#")]
    return {canonicalize_name(package): version for package, version in pins}


@pytest.fixture(scope="module")
def lock() -> dict[str, str]:
    """What the abilities need."""
    return read_lock("requirements.lock")


@pytest.fixture(scope="module")
def tests_lock() -> dict[str, str]:
    """What the tests need on top."""
    return read_lock("requirements-test.lock")


def test_console_command(project: dict[str, Any]) -> None:
    assert project["scripts"] == {"steper": "steper_ray.cli:main"}
    (entry,) = metadata.entry_points(group="console_scripts", name="steper")
    assert entry.value == project["scripts"]["steper"]


@pytest.mark.parametrize("arguments", [[], *([name] for name in all_commands())])
def test_help_answers_at_once_for_it_imports_no_library(arguments: list[str]) -> None:
    shown = subprocess.run(
        [STEPER, *arguments, "--help"],
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith(" ".join(["usage: steper", *arguments]))
    modules = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "argparse" in modules
    libraries = {"ray", "torch", "transformers", "vllm", "pyarrow", "numpy", "pydantic", "yaml"}
    assert not modules & libraries


def test_python_runs_the_package_as_the_command() -> None:
    command = [sys.executable, "-m", "steper_ray", "train", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("usage: steper train")


def test_help_loads_no_library() -> None:
    """`steper --help` answers at once: only the standard library and the tables are imported."""
    code = (
        "import sys\nbefore = set(sys.modules)\nfrom steper_ray.cli import parser\nparser()\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(loaded - set(sys.stdlib_module_names)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["steper_ray"]


def test_direct_dependencies_are_the_locked_versions(
    project: dict[str, Any], lock: dict[str, str], tests_lock: dict[str, str]
) -> None:
    extras = project["optional-dependencies"]
    for requirements, locked in [
        (project["dependencies"] + extras["cpu"], lock),
        (extras["dev"], lock | tests_lock),
    ]:
        for requirement in map(Requirement, requirements):
            version = locked[canonicalize_name(requirement.name)]
            assert version in requirement.specifier, f"{requirement} but {version} is locked"


def test_locks_are_what_is_installed(lock: dict[str, str], tests_lock: dict[str, str]) -> None:
    assert {"pip", "setuptools", "torch", "ray", "deepspeed"} <= set(lock)
    assert {"pytest", "mypy", "ruff", "peft"} <= set(tests_lock)
    assert lock["torch"].endswith("+cpu")
    assert not set(lock) & set(tests_lock)
    both = lock | tests_lock
    assert not set(both) & {"torchvision", "torchaudio", "torchcodec", "steper-ray"}
    assert {name: metadata.version(name) for name in both} == both


def test_make_lock_would_write_the_same() -> None:
    importlib.import_module("setuptools")  # adds a folder of its own packages to the path
    texts = runpy.run_path(str(ROOT / ".ci" / "lock.py"))["lock_texts"]()
    stages, tests = "requirements.lock", "requirements-test.lock"
    assert texts[stages] == (ROOT / stages).read_text(encoding="utf-8")
    written = (ROOT / tests).read_text(encoding="utf-8").splitlines()
    assert set(texts[tests].splitlines()) >= set(written)  # more may be installed by hand
