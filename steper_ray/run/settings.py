"""The `run` section: folder, data and seed of a run."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from steper_ray.run.section import LocalPath, Section


def absolute(folder: str) -> str:
    """The folder as an absolute path, `~` resolved."""
    return str(Path(folder).expanduser().absolute())


RunDir = Annotated[LocalPath, AfterValidator(absolute)]
"""The folder of a run: absolute, so that it is the same one in every process."""


class RunSection(Section):
    """Where the run lives."""

    dir: RunDir = "runs/steper"
    """Folder of everything the run writes; on a cluster, storage that every node sees."""
    data: RunDir | None = None
    """Folder of another run whose corpus, chains and examples this one uses; null uses its own."""
    seed: int = 0
    """Seed of everything that is drawn at random (data order, initialization)."""
