"""The local files that a run file names: questions, passages, demonstrations, folders of models."""

import glob
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from steper_ray.files import files_below
from steper_ray.run.config import RunConfig
from steper_ray.run.kinds import is_path
from steper_ray.run.loading import map_texts

OF_THE_RUN: Final = ("run.dir", "run.data", "train.offload_dir", "serve.keys_file")
"""Settings that name no input: folders that a run writes to or has from another run, and the API keys,
which are read where they are kept, so that a revoked one counts no more."""


@dataclass(frozen=True, slots=True)
class NamedFiles:
    """What one setting names on this machine: a file, a folder with its files, or a pattern."""

    setting: str
    """Its key path, as `questions.train` or `corpus.passages.0`."""
    address: str
    """As the setting has it."""
    base: Path
    """The file or folder; of a pattern the deepest folder without a sign of it."""
    files: tuple[Path, ...]
    """Every file, sorted."""

    @property
    def is_pattern(self) -> bool:
        """Whether the address is a pattern, below whose folder other files may be."""
        return self.base.is_dir() and self.base != Path(self.address).expanduser().absolute()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.stat().st_size for file in self.files)


def named_paths(values: Mapping[str, Any]) -> dict[str, str]:
    """Key path → path or address, of every setting that names an input.

    values: of a run file, as plain JSON or YAML values
    """
    paths: dict[str, str] = {}

    def note(text: str, kind: Any, place: str) -> str:
        if text and is_path(kind) and place not in OF_THE_RUN:
            paths[place] = text
        return text

    map_texts(values, RunConfig, note)
    return paths


def find_files(setting: str, address: str) -> NamedFiles | None:
    """The local files behind an address; None for what is not on this machine."""
    if "://" in address or address.startswith("hf:"):
        return None
    path = Path(address).expanduser().absolute()
    if path.is_file():
        return NamedFiles(setting, address, path, (path,))
    if path.is_dir():
        return NamedFiles(setting, address, path, tuple(files_below(path)))
    if glob.has_magic(address):
        fixed = next(parent for parent in path.parents if not glob.has_magic(str(parent)))
        matches = fixed.glob(str(path.relative_to(fixed)))
        files = tuple(sorted({match for match in matches if match.is_file()}))
        return NamedFiles(setting, address, fixed, files) if files else None
    return None
