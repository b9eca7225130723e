"""Pages and cards that the pipeline writes from results of stages."""

from pathlib import Path
from typing import Any

from steper_ray.evaluation.evaluate import Evaluation
from steper_ray.evaluation.summary import summarize
from steper_ray.pipeline.evaluation import write_evaluation
from steper_ray.run.config import RunConfig


def answers(right: int, questions: int) -> list[dict[str, Any]]:
    return [
        {
            "hops": 2,
            "steps": [],
            "supporting_ids": [],
            "passages": [],
            "question_id": f"q{number}",
            "question": f"Question {number}?",
            "gold_answers": ["Quell"],
            "answer": "Quell" if number < right else "Tamsin",
            "stop_reason": "answered",
            "error": None,
            **dict.fromkeys(("em", "f1", "acc"), float(number < right)),
        }
        for number in range(questions)
    ]


def test_an_evaluation_is_a_page_and_a_table_in_the_card_of_the_runs_student(
    tmp_path: Path,
) -> None:
    config = RunConfig.model_validate({"run": {"dir": str(tmp_path / "run")}})
    student = config.folder.student
    student.mkdir(parents=True)
    (student / "README.md").write_text("---\ntags: [steper]\n---\n\n# A student\n")
    chains = {"ours": answers(3, 4), "base": answers(1, 4)}
    summaries = {name: summarize(rows) for name, rows in chains.items()}
    page = write_evaluation(
        config, Evaluation(chains, summaries), {"ours": str(student), "base": "owner/base"}
    )
    assert page == config.folder.evaluation / "report.html"
    assert "ours answers 75.0% of 4 questions exactly" in page.read_text()
    card = (student / "README.md").read_text()
    assert "| ours (this model) | 75.0 | 75.0 | 75.0 |" in card
    assert "| base | 25.0 | 25.0 | 25.0 |" in card
    assert "# A student" in card
