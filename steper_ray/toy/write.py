"""Writes a toy world into the run folder: passages, questions of three splits, and the tiny models.

From here on the run is an ordinary one; no later stage knows where its files came from.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.arrow import PASSAGE_SCHEMA, QUESTION_SCHEMA
from steper_ray.errors import InputError

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


MODELS: Final = Path(__file__).parent / "models"


def write_toy(config: "RunConfig") -> Path:
    """Write `<run.dir>/toy/`: passages.parquet, {train,dev,test}.parquet, models/{teacher,base}."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from steper_ray.toy.world import make_world

    toy = config.toy
    if not MODELS.is_dir():
        raise InputError(f"{MODELS}: the bundled models are missing; run `make pretrain`")
    target = config.dir / "toy"
    partial = config.dir / "toy.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    world = make_world(toy.seed, toy.scale)
    passages = [asdict(passage) for passage in world.passages()]
    pq.write_table(
        pa.Table.from_pylist(passages, schema=PASSAGE_SCHEMA), partial / "passages.parquet"
    )
    splits = {"train": toy.train, "dev": toy.dev, "test": toy.test}
    for split, questions in world.questions(splits).items():
        rows = [asdict(question) for question in questions]
        pq.write_table(
            pa.Table.from_pylist(rows, schema=QUESTION_SCHEMA), partial / f"{split}.parquet"
        )
    shutil.copytree(MODELS, partial / "models")
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return target
