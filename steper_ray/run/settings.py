"""The `run` section: folder, data, seed and logs of a run."""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, PositiveFloat

from steper_ray.run.section import LocalPath, Section

SUBMITTED: Final = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""What Ray sets in the environment of a submitted job's entry point, and nowhere else."""


def absolute(folder: str) -> str:
    """The folder as an absolute path, `~` resolved."""
    return str(Path(folder).expanduser().absolute())


def _run_dir(folder: str) -> str:
    if not folder.strip():
        raise ValueError("must not be empty; name a folder, or leave the key out")
    if SUBMITTED in os.environ and not Path(folder).expanduser().is_absolute():
        raise ValueError(
            "must be absolute in a submitted job, which works in a temporary folder of the head; name "
            "storage that every node sees"
        )
    return absolute(folder)


RunDir = Annotated[LocalPath, AfterValidator(_run_dir)]
"""The folder of a run: absolute, so that it is the same one in every process."""


LogFormat = Literal["text", "json"]


class RunSection(Section):
    """Where the run lives."""

    dir: RunDir = "runs/steper"
    """Folder of everything the run writes; on a cluster, storage that every node sees, and absolute in a
    submitted job."""
    data: RunDir | None = None
    """Folder of another run whose corpus, chains and examples this one uses; null uses its own."""
    seed: int = 0
    """Seed of everything that is drawn at random (data order, initialization)."""
    wait_for_room_minutes: PositiveFloat | None = None
    """Longest wait for room on the cluster (nodes that the autoscaler brings, another run's end) before a
    stage ends; null waits on, and says so every minute."""
    log_format: LogFormat = "text"
    """Lines of the files in `logs/`: `text`, or `json` with one object a line."""
