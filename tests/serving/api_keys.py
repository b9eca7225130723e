"""Keys of two owners, a file of keys, and a clock that is set by hand."""

from pathlib import Path
from typing import Any

import yaml

from steper_ray.serving.keys import (
    hash_key,
)

ALICE, BOB = "alice-key-0123456789", "bob-key-0123456789"


def written(file: Path, **keys: Any) -> Path:
    """A keys file."""
    file.write_text(yaml.safe_dump({name: {"sha256": hash_key(key)} for name, key in keys.items()}))
    return file


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now
