"""Rows of the published data sets: HotpotQA and MuSiQue from files, 2WikiMultihopQA written by hand."""

import json
from typing import Any, Final

from tests.conftest import ROOT

DATA: Final = ROOT / "tests" / "data"

HOTPOTQA_FILE: Final = DATA / "hotpotqa_distractor_40.json"

MUSIQUE_FILE: Final = DATA / "musique_ans_10.jsonl"

TWO_WIKI_ROW: Final = {
    # Written by hand in the form that the dataset's README describes.
    "_id": "w1",
    "type": "bridge_comparison",
    "question": "Are both directors from the same country?",
    "context": [
        ["Film A", ["Film A is a film.", "It was directed by X."]],
        ["X", ["X is French."]],
        ["Film B", ["Film B is a film by Y."]],
        ["Y", ["Y is Dutch."]],
        ["Noise", [""]],
    ],
    "entity_ids": "Q1_Q2",
    "supporting_facts": [["Film A", 1], ["Film B", 0], ["X", 0], ["Y", 0]],
    "evidences": [["Film A", "director", "X"], ["Film B", "director", "Y"]],
    "evidences_id": [],
    "answer": "no",
    "answer_id": "Q7",
}


def hotpotqa_rows() -> list[dict[str, Any]]:
    return list(json.loads(HOTPOTQA_FILE.read_text()))


def musique_rows() -> list[dict[str, Any]]:
    return [json.loads(line) for line in MUSIQUE_FILE.read_text().splitlines()]


def as_on_the_hub(row: dict[str, Any]) -> dict[str, Any]:
    """HotpotQA as hotpotqa/hotpot_qa has it."""
    titles, sentences = zip(*row["context"], strict=True)
    facts = row["supporting_facts"]
    return {
        **{name: row[name] for name in ("question", "answer", "type", "level")},
        "id": row["_id"],
        "context": {"title": list(titles), "sentences": [list(s) for s in sentences]},
        "supporting_facts": {"title": [t for t, _ in facts], "sent_id": [n for _, n in facts]},
    }
