"""Evaluation scores on a student's card: added once, read by the Hub, and what a person wrote is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from steper_ray.errors import InputError
from steper_ray.reports.student_card import (
    add_scores,
    write_card,
)
from tests.markdown import shown, tables
from tests.samples import CARD, SCORES


def results(file: Path) -> list[dict[str, Any]]:
    """The model index as the Hub reads it."""
    _, metadata, _ = file.read_text().split("---\n", 2)
    (index,) = yaml.safe_load(metadata)["model-index"]
    found: list[dict[str, Any]] = index["results"]
    return found


def held_out(questions: int, em: float, f1: float, acc: float) -> Mapping[str, Any]:
    return {
        "task": {"type": "question-answering"},
        "dataset": {
            "name": "held-out questions",
            "type": "held-out questions",
            "args": {"questions": questions},
        },
        "metrics": [
            {"type": "exact_match", "name": "Exact match", "value": em},
            {"type": "f1", "name": "F1", "value": f1},
            {"type": "accuracy", "name": "Accuracy", "value": acc},
        ],
    }


def test_scores(tmp_path: Path) -> None:
    write_card(tmp_path, CARD)
    file = tmp_path / "README.md"
    before = ModelCard(file.read_text())
    add_scores(tmp_path, "student", SCORES, 1200)
    first = file.read_bytes()
    after = ModelCard(file.read_text())
    assert tables(after.text)[:-1] == tables(before.text)
    assert tables(after.text)[-1] == [
        ["Model", "Exact match", "F1", "Accuracy"],
        ["base", "10.0", "20.0", "15.0"],
        ["student (this model)", "45.7", "50.0", "100.0"],
    ]
    assert "On 1,200 held-out questions, in percent:" in shown(after.text)
    assert "Not evaluated yet" not in after.text
    assert results(file) == [held_out(1200, 0.4568, 0.5, 1.0)]
    assert after.data.to_dict().items() >= before.data.to_dict().items()

    add_scores(tmp_path, "student", SCORES, 1200)
    assert file.read_bytes() == first
    add_scores(tmp_path, "mine", {"mine": {"em": 0.25, "f1": 0.3, "acc": 0.35}}, 1)
    assert tables(ModelCard(file.read_text()).text)[-1][1:] == [
        ["mine (this model)", "25.0", "30.0", "35.0"]
    ]
    assert "On 1 held-out question, in percent:" in file.read_text()
    assert results(file) == [held_out(1, 0.25, 0.3, 0.35)]
    add_scores(tmp_path, "student", SCORES, 1200)
    assert file.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]


def test_scores_leave_what_a_person_wrote(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    write_card(tmp_path, CARD)
    other = {
        "task": {"type": "question-answering"},
        "dataset": {"name": "HotpotQA", "type": "hotpot_qa"},
        "metrics": [{"type": "f1", "value": 0.7}],
    }
    index = yaml.safe_dump({"model-index": [{"name": "x", "results": [other]}], "license": "mit"})
    written = file.read_text().replace("---\n", f"---\n{index}", 1) + "\nA word of mine.\r\n"
    file.write_bytes(b"\xef\xbb\xbf" + written.encode())
    add_scores(tmp_path, "student", SCORES, 10)
    once = file.read_bytes()
    card = ModelCard(file.read_text())
    assert results(file) == [other, held_out(10, 0.4568, 0.5, 1.0)]
    assert card.data.get("license") == "mit"
    assert card.text.endswith("\nA word of mine.\n")
    add_scores(tmp_path, "student", SCORES, 10)
    assert file.read_bytes() == once


def test_scores_of_a_card_without_marks_are_appended(tmp_path: Path) -> None:
    file = tmp_path / "README.md"
    file.write_text("# My own card\n\nText.\n")
    add_scores(tmp_path, "student", SCORES, 10)
    once = file.read_text()
    assert "# My own card\n\nText.\n\n## Evaluation\n\n" in once
    assert tables(ModelCard(once).text)[0][2][0] == "student (this model)"
    add_scores(tmp_path, "student", SCORES, 10)
    assert file.read_text() == once


def test_scores_without_a_card(tmp_path: Path) -> None:
    add_scores(tmp_path, "student", SCORES, 10)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("metadata", ["a: [", "- x", "1: x", "model-index: [{}]"])
def test_a_card_that_cannot_be_read(tmp_path: Path, metadata: str) -> None:
    file = tmp_path / "README.md"
    text = f"---\n{metadata}\n---\n\nText.\n"
    file.write_text(text)
    with pytest.raises(InputError, match=r"README\.md: the metadata .* cannot be read") as raised:
        add_scores(tmp_path, "student", SCORES, 10)
    assert "\n" not in str(raised.value)
    assert file.read_text() == text
