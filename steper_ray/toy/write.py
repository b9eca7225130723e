"""The toy stage: passages, questions of three splits and the tiny models of an invented world.

All later stages read these files as they would a user's.
"""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Final

from steper_ray.arrow import PASSAGE_SCHEMA, QUESTION_SCHEMA
from steper_ray.errors import InputError
from steper_ray.files import new_folder
from steper_ray.run.lock import locked
from steper_ray.toy.settings import ToyConfig

MODELS: Final = Path(__file__).parent / "models"


def write_toy(settings: ToyConfig, out: Path) -> None:
    """Write passages.parquet, {train,dev,test}.parquet and models/{teacher,base} to `out`, all or none.

    Raises InputError if the bundled models are missing, and if another command writes to `out`.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from steper_ray.toy.world import make_world

    if not MODELS.is_dir():
        raise InputError(f"{MODELS}: the bundled models are missing; run `make pretrain`")
    world = make_world(settings.seed, settings.scale)
    splits = {"train": settings.train, "dev": settings.dev, "test": settings.test}
    with locked(out), new_folder(out) as folder:
        passages = [asdict(passage) for passage in world.passages()]
        table = pa.Table.from_pylist(passages, schema=PASSAGE_SCHEMA)
        pq.write_table(table, folder / "passages.parquet")
        for split, questions in world.questions(splits).items():
            rows = [asdict(question) for question in questions]
            table = pa.Table.from_pylist(rows, schema=QUESTION_SCHEMA)
            pq.write_table(table, folder / f"{split}.parquet")
        shutil.copytree(MODELS, folder / "models")
