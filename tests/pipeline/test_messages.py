import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from steper_ray.pipeline.messages import nothing_kept_lines, write_summary


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


def test_where_nothing_is_kept_the_reason_to_look_at_first_is_said() -> None:
    (line,) = nothing_kept_lines(20, 0, {"wrong_answer": 12, "ungrounded": 8})
    assert line == (
        "no chain is kept, so there is nothing to train on; look at wrong_answer first "
        "(12 of 20 chains): the answer does not match a gold answer as select.match asks. "
        "`steper show` prints a chain"
    )
    # of two as frequent, the one that is tested first
    assert "look at error first" in nothing_kept_lines(4, 0, {"forced": 2, "error": 2})[0]
    assert nothing_kept_lines(20, 1, {"wrong_answer": 19}) == []
    assert nothing_kept_lines(0, 0, {}) == []
