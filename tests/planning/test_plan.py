"""Samples and refused plans; then a real plan, and the build after it."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from steper_ray.chains.rows import read_chains
from steper_ray.chains.teachers import Reasoner
from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.engines.settings import EngineConfig
from steper_ray.errors import InputError
from steper_ray.pipeline.build import BuildSummary, build_run
from steper_ray.pipeline.plan import plan_run
from steper_ray.planning.costs import ALL
from steper_ray.planning.estimate import Estimate
from steper_ray.planning.forecast import Plan
from steper_ray.planning.sample import draw, sample_size
from steper_ray.planning.table import plan_lines
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.config import RunConfig
from steper_ray.run.folder import RunFolder
from steper_ray.run.loading import load_config
from steper_ray.schema import Question
from steper_ray.selection.abilities import STEPER
from steper_ray.selection.settings import SelectConfig


def test_a_sample_is_drawn_by_the_ids_alone() -> None:
    questions = [Question(f"q{number}", "?", "!") for number in range(100)]
    small, large = ({q.id for q in draw(reversed(questions), count)} for count in (10, 20))
    assert small == {question.id for question in draw(questions, 10)}
    assert small < large
    assert small != {question.id for question in questions[:10]}
    assert len(draw(questions, 1000)) == 100


def test_a_sample_fills_the_engines_twice() -> None:
    engine = EngineConfig(replicas=3, max_num_seqs=128)
    teacher = Reasoner("m", ReasoningConfig(), engine)
    assert sample_size(teacher) == 768
    assert sample_size(replace(teacher, samples=5, temperature=1.0)) == 154
    assert sample_size(replace(teacher, engine=EngineConfig(max_num_seqs=1))) == 64


def test_bad_input_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["plan", "--config", str(TOY_RUN_FILE), "--set", f"run.dir={tmp_path}"]
    for sample in ("0", "-3", "many"):
        assert main([*options, "--sample", sample]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "build.plan_sample" in line
        assert sample in line


def endpoint_run(folder: Path, **build: object) -> RunConfig:
    """A run that needs no model here."""
    (folder / "train.jsonl").write_text("", encoding="utf-8")
    values = {
        "run": {"dir": str(folder)},
        "questions": {"train": str(folder / "train.jsonl")},
        "build": {"teacher": "m", "endpoint": {"base_url": "http://127.0.0.1:9/v1"}, **build},
    }
    return RunConfig.model_validate(values)


def test_a_plan_without_questions_or_one_to_be_thrown_away_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="question"):
        plan_run(endpoint_run(tmp_path))
    with pytest.raises(InputError, match=r"build\.fresh"):
        plan_run(endpoint_run(tmp_path, fresh=True))


def check_forecast(plan: Plan, built: BuildSummary, folder: RunFolder) -> None:
    """The examples and sizes of a plan are near those of its build."""
    for ability in (*STEPER.names, ALL):
        examples = plan.data.examples[ability]
        assert examples is not None
        counted = built.examples[ability] if ability != ALL else sum(built.examples.values())
        assert examples.value == pytest.approx(counted, rel=0.25)
    chains_bytes, stepwise_bytes = (
        sum(file.stat().st_size for file in files.glob("*.parquet"))
        for files in (folder.chains, folder.examples)
    )
    assert plan.chains_bytes is not None
    assert plan.chains_bytes.value == pytest.approx(chains_bytes, rel=0.15)
    assert plan.data.stepwise_bytes is not None
    assert plan.data.stepwise_bytes.value == pytest.approx(stepwise_bytes, rel=0.25)


@pytest.mark.engine
def test_a_plan_is_paid_once_and_its_build_keeps_to_it(
    toy_corpus: RunConfig, tmp_path: Path
) -> None:
    settings = [
        f"corpus.passages={toy_corpus.corpus.passages}",
        f"questions.train={toy_corpus.questions.train}",
        f"build.teacher={toy_corpus.build.teacher}",
        "build.limit=60",
        "build.plan_sample=40",
        "engine.max_num_seqs=8",
        f"run.dir={tmp_path}",
    ]
    config = load_config(TOY_RUN_FILE, settings)
    config.folder.corpus.symlink_to(toy_corpus.folder.corpus)
    first = plan_run(config)
    chains = read_chains(config.folder.chains)
    assert (first.questions, first.finished, first.remaining, first.asked) == (60, 40, 20, 40)
    assert len(chains) == 40
    (teacher,) = first.teachers
    assert teacher.pace is not None
    assert teacher.pace.per_second > 0  # whether enough of the run was busy depends on the machine
    assert teacher.chains == Estimate(60.0, 0.0)
    generated = sum(step.generated_tokens for chain in chains for step in chain.steps)
    assert teacher.tokens[ALL]["generated"].value == pytest.approx(1.5 * generated)  # type: ignore[union-attr]

    # other selection settings cost no teacher either
    again = plan_run(config.model_copy(update={"select": SelectConfig(match="f1")}))
    assert (again.asked, again.remaining) == (0, 20)
    assert again.teachers == first.teachers
    assert read_chains(config.folder.chains) == chains

    summary = build_run(config)
    assert (summary.usage.asked, summary.questions) == (20, 60)
    made = read_chains(config.folder.chains)
    check_forecast(first, summary, config.folder)

    last = plan_run(config)
    assert (last.asked, last.remaining, last.chains) == (0, 0, Estimate(60.0, 0.0))
    assert last.data.kept == Estimate(float(summary.kept), 0.0)
    assert {s: last.data.examples[s] for s in STEPER.names} == {
        ability: Estimate(float(count), 0.0) for ability, count in summary.examples.items()
    }
    training = sum(
        step.prompt_tokens + step.generated_tokens
        for chain in made
        if chain.rejected is None
        for step in chain.steps
    )
    assert last.data.training_tokens[ALL] == Estimate(float(training), 0.0)
    assert pq.read_table(config.folder.examples).num_rows == sum(summary.examples.values())

    lines = plan_lines(first)
    assert (
        lines[0]
        == "60 questions = 40 finished + 20 remaining, predicted from 40; 40 asked just now"
    )
    written = json.loads(config.folder.plan.read_text(encoding="utf-8"))
    assert written["plan"]["questions"] == 60
    assert written["measured"][""]["usage"]["asked"] == 40
