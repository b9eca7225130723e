"""The step-wise data set as a folder that appears whole.

However the chains are spread over files, the examples come out in the order of their chains' ids, in the
same shards, byte for byte.
"""

import shutil
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from steper_ray.chains.store import empty_folder
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.selection.choice import Judgement
from steper_ray.selection.shards import plan_shards, write_shard

DATA: Final = "data"
"""Folder of the Parquet files within a data set."""


Decorate = Callable[[Path, Mapping[str, Any]], None]
"""Writes files beside the examples (card, pictures), given the folder and the statistics."""


def write_dataset(
    out: Path,
    judged: Mapping[Path, Sequence[Judgement]],
    verdicts: Mapping[str, str | None],
    *,
    scheme: AbilityScheme,
    reasoning: ReasoningConfig,
) -> Path:
    """Write the kept chains' examples into a new folder beside `out`; returns that folder.

    judged: files of chains, with the judgements of their chains
    """
    new = empty_folder(out.with_name(f"{out.name}.partial"))
    folder = empty_folder(new / DATA)
    write = partial(write_shard, folder=folder, reasoning=reasoning, scheme=scheme)
    deque(parallel_map(write, plan_shards(judged, verdicts)), maxlen=0)
    return new


def replace_folder(folder: Path, new: Path) -> None:
    """Put a finished folder in the place of another one, which is whole until then."""
    old = folder.with_name(f"{folder.name}.old.partial")
    shutil.rmtree(old, ignore_errors=True)
    if folder.is_dir():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
