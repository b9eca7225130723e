import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from steper_ray.errors import ConfigError
from steper_ray.evaluation.compare import _best_of_each, _Work, check_variants
from steper_ray.evaluation.comparison import (
    Comparison,
    TrainedStudent,
    Tuning,
    judge,
    write_comparison,
)
from steper_ray.evaluation.settings import CompareConfig
from steper_ray.ray_runtime.progress import stage_progress
from steper_ray.reports.comparison_page import (
    headline,
    markdown_lines,
    text_lines,
    write_comparison_page,
)
from steper_ray.run.config import RunConfig
from steper_ray.training.summary import TrainSummary
from tests.run.test_resume import SUMMARY

QUESTIONS = 40


def rows(right: set[int]) -> list[dict[str, Any]]:
    """A model's answers; questions with an even number have 2 hops, the others 3."""
    return [
        {
            "hops": 2 + number % 2,
            "steps": [],
            "supporting_ids": [],
            "gold_answers": ["Quell"],
            "answer": "Quell" if number in right else "Tamsin",
            "stop_reason": "answered",
            "error": None,
            **dict.fromkeys(("em", "f1", "acc"), float(number in right)),
        }
        for number in range(QUESTIONS)
    ]


def student(name: str, seed: int = 0, folder: Path = Path()) -> TrainedStudent:
    return TrainedStudent(name, 1e-3, seed, folder, 70, 1_000_000, 20_000, 60.0)


@pytest.fixture
def comparison() -> Comparison:
    answers = {
        "base": [rows(set())],
        "vanilla-kd": [rows(set(range(20))), rows(set(range(16)))],
        "difficulty": [rows(set(range(38)))],
        "same": [rows(set(range(20))), rows(set(range(16)))],
        "teacher": [rows(set(range(39)))],
    }
    students = {
        name: [student(name, seed) for seed in range(len(answers[name]))]
        for name in ("vanilla-kd", "difficulty", "same")
    }
    tuning = (Tuning("difficulty", 1e-3, 0.9), Tuning("difficulty", 2e-3, 0.8))
    contenders = judge(answers, students, "vanilla-kd")
    return Comparison("vanilla-kd", QUESTIONS, 300, 1, contenders, tuning)


def test_scores_are_means_over_questions_and_seeds(comparison):
    by_name = {contender.name: contender for contender in comparison.contenders}
    vanilla, difficulty = by_name["vanilla-kd"], by_name["difficulty"]
    assert vanilla.summary.overall.em == pytest.approx(18 / 40)
    assert vanilla.summary.overall.questions == QUESTIONS
    assert vanilla.em_of_seed == (0.5, 0.4)
    assert vanilla.summary.hops["2"].em == pytest.approx(9 / 20)
    assert difficulty.difference["em"] == pytest.approx((38 - 18) / 40)
    low, high = difficulty.difference_interval
    assert low < 0.5 < high
    assert by_name["base"].lr is None
    assert difficulty.lr == 1e-3


def test_each_is_tested_against_the_baseline_and_holm_adjusted(comparison):
    p = {contender.name: contender.p for contender in comparison.contenders}
    assert p["vanilla-kd"] is None
    assert p["same"] == 1.0
    # 22 questions differ, all in one direction: 2 / 2^22, or the least that 100,000 draws can show.
    assert p["difficulty"] < 4 * 2.1e-5
    assert p["base"] < 0.05


def test_the_tables_say_the_same(comparison):
    table = [line.strip("| ").split(" | ") for line in markdown_lines(comparison)]
    head, rows_ = table[0], {row[0]: row for row in table[2:]}
    em = head.index("EM")
    assert head[:5] == ["model", "EM", "95 %", "F1", "Acc"]
    assert rows_["vanilla-kd (2 seeds)"][em] == "45.0"
    assert rows_["difficulty"][em] == "95.0"
    assert rows_["difficulty"][head.index("EM − vanilla-kd")].startswith("+50.0 (")
    assert rows_["teacher"][-3:] == ["–", "–", "–"]
    lines = text_lines(comparison)
    assert len({len(line) for line in lines}) == 1
    assert "45.0" in next(line for line in lines if line.startswith("vanilla-kd"))


def test_the_headline_names_the_best_variant(comparison):
    assert headline(comparison) == (
        "difficulty answers 95.0% exactly, +50.0 points against vanilla-kd; that is 97% of its teacher’s."
    )


def test_the_page_stands_alone_and_has_every_model(comparison, tmp_path):
    metrics = tmp_path / "difficulty" / "training" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    lines = [
        {"step": step, **{f"L_{s}": 0.5 for s in ("init", "exp", "agg")}}
        | {f"sigma_{s}": 1 - step / 10 for s in ("init", "exp", "agg")}
        for step in range(1, 6)
    ]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    students = {"difficulty": [student("difficulty", folder=tmp_path / "difficulty")]}
    bad = tmp_path / "vanilla-kd" / "training" / "metrics.jsonl"
    bad.parent.mkdir(parents=True)
    bad.write_text("")
    students["vanilla-kd"] = [student("vanilla-kd", folder=tmp_path / "vanilla-kd")]
    write_comparison(tmp_path, comparison)
    write_comparison_page(tmp_path, comparison, students)
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    for contender in comparison.contenders:
        assert re.search(rf'<th scope="row">{contender.name}[ <]', page)
    assert json.loads((tmp_path / "comparison.json").read_text()) == json.loads(
        json.dumps(asdict(comparison))
    )
    assert (tmp_path / "comparison.md").read_text().count("\n") == 7


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"repeated": ["unifrom"]}, "'unifrom' is no variant; there are vanilla-kd, uniform"),
        ({"baseline": "nothing"}, "'nothing' is no variant; there are vanilla-kd, uniform"),
        (
            {"variants": {"teacher": {}}, "baseline": "teacher"},
            "cannot be a variant",
        ),
        (
            {"variants": {"a/b": {}}, "baseline": "a/b"},
            "cannot be a variant's name",
        ),
        (
            {"variants": {"x": {"objectve": "uniform"}}, "baseline": "x"},
            r"compare\.variants\.x\.objectve: ",
        ),
    ],
)
def test_a_comparison_that_cannot_be_meant_is_refused(values, said):
    config = RunConfig.model_validate({"compare": values})
    with pytest.raises(ConfigError, match=said):
        check_variants(config)


def test_by_default_those_of_the_papers_variants_are_repeated_that_there_are():
    own = RunConfig.model_validate({"compare": {"variants": {"uniform": {}, "mine": {}}}}).compare
    assert own.repeated_variants == ("uniform",)
    assert CompareConfig().repeated_variants == ("vanilla-kd", "uniform", "difficulty")
    assert CompareConfig(repeated=()).repeated_variants == ()


@pytest.mark.parametrize(
    ("lr", "names"),
    [(None, ["lr-5e-06-seed-0", "lr-0.0002-seed-0"]), (1e-3, ["lr-0.001-seed-0"] * 2)],
)
def test_where_no_rate_is_set_adapters_have_their_own(tmp_path, lr, names):
    config = RunConfig.model_validate(
        {
            "run": {"dir": str(tmp_path)},
            "train": {"lr": lr},
            "compare": {"variants": {"whole": {}, "lora": {"lora": {"rank": 8}}}},
        }
    )
    trained: list[RunConfig] = []

    def train(student: RunConfig, *, corpus: Path) -> TrainSummary:
        assert corpus == tmp_path / "corpus-0.lance"
        trained.append(student)
        return SUMMARY

    with stage_progress("compare", "comparing") as progress:
        work = _Work(progress, 2, tmp_path / "corpus-0.lance")
        students, _ = _best_of_each(train, config, (config.train.lr,), [], work)
    assert [student.folder.root.name for student in trained] == names
    rates = [students[name][0].lr for name in ("whole", "lora")]
    assert rates == [student.train.peak_lr for student in trained]
    assert [f"lr-{rate:g}-seed-0" for rate in rates] == names
