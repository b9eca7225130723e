import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from steper_ray.pipeline.messages import write_summary


@dataclass
class Selected:
    kept: int
    folder: Path
    changes: Counter[tuple[str | None, str]]
    losses: dict[str, float | None]


def test_closing_counts_are_json(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "select" / "summary.json"
    changes: Counter[tuple[str | None, str]] = Counter({(None, "wrong"): 2})
    counts = Selected(3, Path("a/b"), changes, {"init": 0.5, "exp": None})
    write_summary(file, "select", 1.23456, counts)
    assert json.loads(file.read_text(encoding="utf-8")) == {
        "stage": "select",
        "seconds": 1.235,
        "counts": {
            "kept": 3,
            "folder": "a/b",
            "changes": {"None,wrong": 2},
            "losses": {"init": 0.5, "exp": None},
        },
    }
