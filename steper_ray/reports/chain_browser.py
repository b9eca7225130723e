"""Every chain of an evaluation inside its page: an index to search and filter, and the chains behind it.

The chains are packed, some at a time, and are unpacked by the page when one of them is opened; so a page
with ten thousand of them opens in a moment.
"""

import base64
import gzip
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Final

from steper_ray.evaluation.summary import MOST_TYPES, Row, question_type
from steper_ray.reports.evaluation_tables import STOPPED

PACKED: Final = 128
"""Questions whose chains are packed together."""


@dataclass(frozen=True, slots=True)
class ChainBrowser:
    """What the page holds of the chains."""

    index: str
    """JSON, which may stand inside a script element."""
    packs: list[str]
    """Base64 of compressed JSON: a list of questions, each with its passages and every model's steps."""
    script: str
    script_hash: str
    """By which the page's content policy allows this script alone: `sha256-…`."""


def chain_browser(chains: Mapping[str, Sequence[Row]]) -> ChainBrowser:
    """The chains of an evaluation.

    chains: by model, one row a question, the same questions in the same order
    """
    questions = list(zip(*chains.values(), strict=True))
    firsts = [rows[0] for rows in questions]
    types = [question_type(row) for row in firsts]
    index = {
        "models": list(chains),
        "packed": PACKED,
        "ends": {**{reason: text.lower() for reason, text in STOPPED.items()}, "error": "error"},
        "ids": [row["question_id"] for row in firsts],
        "questions": [row["question"] for row in firsts],
        "hops": [row["hops"] for row in firsts],
        "types": types if len(set(types)) <= MOST_TYPES else [None] * len(types),
        "right": [
            [int(row["error"] is None and row["em"] == 1) for row in rows] for rows in questions
        ],
        "reasons": [
            ["error" if row["error"] is not None else row["stop_reason"] for row in rows]
            for rows in questions
        ],
        "steps": [[len(row["steps"]) for row in rows] for rows in questions],
        "seconds": [[round(_seconds(row), 2) for row in rows] for rows in questions],
    }
    packs = [
        _pack([_details(rows) for rows in questions[start : start + PACKED]])
        for start in range(0, len(questions), PACKED)
    ]
    script = files("steper_ray.reports").joinpath("templates/chains.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return ChainBrowser(_json(index).replace("<", r"\u003c"), packs, script, f"sha256-{digest}")


def _seconds(row: Row) -> float:
    return math.fsum(step["search_seconds"] + step["generate_seconds"] for step in row["steps"])


def _details(rows: Sequence[Row]) -> dict[str, Any]:
    """A question with its passages, each once, and what every model did with it.

    One passage may be cut to different lengths for two models.
    """
    passages = list(dict.fromkeys(_passage(one) for row in rows for one in row["passages"]))
    numbers = {passage: number for number, passage in enumerate(passages)}
    of_row = [{one["id"]: numbers[_passage(one)] for one in row["passages"]} for row in rows]
    return {
        "gold": list(rows[0]["gold_answers"]),
        "passages": [[title, text] for _, title, text in passages],
        "chains": [
            {
                "answer": row["answer"],
                "error": row["error"],
                "steps": [
                    [step["query"], [known[id] for id in step["passage_ids"]], step["rationale"]]
                    for step in row["steps"]
                ],
            }
            for row, known in zip(rows, of_row, strict=True)
        ],
    }


def _passage(passage: Mapping[str, str]) -> tuple[str, str, str]:
    return passage["id"], passage["title"], passage["text"]


def _pack(details: Sequence[Mapping[str, Any]]) -> str:
    """The same chains give the same text: the time is left out of it."""
    return base64.b64encode(gzip.compress(_json(details).encode("ascii"), mtime=0)).decode()


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
