"""Questions that stand in two splits."""

from pathlib import Path

from steper_ray.data.overlap import overlap_lines
from steper_ray.data.questions import load_other_splits, load_questions
from steper_ray.data.settings import QuestionsConfig
from tests.data.test_tables import jsonl


def rows(*questions: str) -> list[dict[str, str]]:
    return [{"id": f"{at}", "question": text, "answer": "x"} for at, text in enumerate(questions)]


def test_questions_of_two_splits_are_counted(tmp_path: Path) -> None:
    inputs = tmp_path / "inputs"
    settings = QuestionsConfig(
        train=str(jsonl(tmp_path, *rows("Who is it?", "Where?", "When?"), name="train.jsonl")),
        dev=str(jsonl(tmp_path, *rows("What?", "who  is it", "Why?"), name="dev.jsonl")),
        test=str(jsonl(tmp_path, *rows("How?"), name="test.jsonl")),
    )
    load_questions(settings, "train", inputs)
    assert overlap_lines(inputs, "train") == []  # no other split was read
    load_other_splits(settings, "train", inputs)
    (line,) = overlap_lines(inputs, "train")
    assert line.startswith("questions.train: 1 of 3 questions stand in questions.dev too; ")
    (line,) = overlap_lines(inputs, "dev")
    assert line.startswith("questions.dev: 1 of 3 questions stand in questions.train too; ")
    assert overlap_lines(inputs, "test") == []


def test_a_split_that_cannot_be_read_is_not_compared(tmp_path: Path) -> None:
    settings = QuestionsConfig(
        train=str(jsonl(tmp_path, *rows("Who?"), name="train.jsonl")),
        dev=str(tmp_path / "none.jsonl"),
        test=str(jsonl(tmp_path, {"id": "1"}, name="test.jsonl")),
    )
    load_questions(settings, "train", tmp_path)
    load_other_splits(settings, "train", tmp_path)
    assert overlap_lines(tmp_path, "train") == []
