"""Results of earlier commands are used, or resumed, after settings were added that no result depends on.

No engine runs here: what is asked is whether each result is recognised as what it is.
"""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.build import prepare_chains
from steper_ray.chains.rows import read_chains
from steper_ray.chains.store import partial_dir, record_file
from steper_ray.chains.stream import _prepare_partial
from steper_ray.errors import InputError
from steper_ray.evaluation.compare import _answers, evaluated_model
from steper_ray.pipeline.build import build_run, run_teachers
from steper_ray.pipeline.demo import DEMO_STAGES
from steper_ray.pipeline.ledger import stage_inputs
from steper_ray.pipeline.select import select_run
from steper_ray.pipeline.training import train_student
from steper_ray.retrieval.corpus_record import CorpusRecord, write_corpus_record
from steper_ray.run.config import RunConfig
from steper_ray.run.dependencies import answers_identity, stage_identity
from steper_ray.run.identity import RULES, differences, read_record, write_record
from steper_ray.schema import SCORES, Question
from steper_ray.sweep.sweep import sweep_folder
from steper_ray.tasks import TASKS
from steper_ray.toy.write import MODELS
from steper_ray.training.resume import DONE_FILE, find_checkpoints, finished_training, task_identity
from steper_ray.training.summary import TrainSummary
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.worker_spec import WorkerTask, read_corpus_version, worker_task
from tests.later_settings import LATER, Later, with_added_keys
from tests.samples import CHAIN, numbered

SUMMARY = TrainSummary(
    steps=3,
    planned_steps=3,
    seconds=1.0,
    loss=0.5,
    ability_losses={"init": 0.5, "exp": None, "agg": 0.5},
    validation_loss=None,
    sigma={"init": 1.0, "exp": 1.0, "agg": 1.0},
    chains=2,
    examples={"init": 2, "exp": 0, "agg": 2},
    input_tokens=10,
    supervised_tokens=5,
    dropped_passages=0,
    separate_because=None,
)


def task_of(config: RunConfig, files: list[Path]) -> WorkerTask:
    return worker_task(
        config.train,
        files,
        out=config.folder.root,
        seed=config.run.seed,
        reasoning=config.reasoning,
        corpus_version=read_corpus_version(config.folder.chains),
    )


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """A run with a corpus and examples, a folder as teacher and student, and settings of every kind."""
    models = {
        name: str(shutil.copytree(MODELS / name, tmp_path / "models" / name))
        for name in ("teacher", "base")
    }
    rows = [asdict(replace(chain, model=models["teacher"])) for chain in numbered(range(4))]
    (tmp_path / "chains").mkdir()
    pq.write_table(pa.Table.from_pylist(rows, CHAIN_SCHEMA), tmp_path / "chains" / "a.parquet")
    questions = [
        {"id": chain.question_id, "question": chain.question, "answer": "Neill"}
        for chain in numbered(range(4))
    ]
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, questions)))
    return RunConfig.model_validate(
        {
            "run": {"dir": str(tmp_path)},
            "questions": {"train": str(tmp_path / "questions.jsonl")},
            "reasoning": {"demonstrations": "bundled"},
            "build": {
                "teacher": models["teacher"],
                "ensemble": [
                    {
                        "teacher": "far",
                        "endpoint": {"base_url": "http://nowhere/v1"},
                        "engine": {"replicas": 2},
                    }
                ],
            },
            "train": {
                "model": models["base"],
                "lora": {"rank": 4},
                "validation_chains": 1,
            },
            "sweep": {"parameters": {"lr": {"log": [1e-5, 1e-3]}}},
        }
    )


CORPUS = {"corpus_version": "c0ffee", "retriever": "bm25"}


@pytest.fixture
def corpus(config: RunConfig) -> None:
    """A corpus, as far as its record is read."""
    config.folder.corpus.mkdir(parents=True)
    write_corpus_record(config.folder.corpus, CorpusRecord("c0ffee", 1, {"type": "bm25"}))


def prepare_store(config: RunConfig) -> None:
    """Check a run's chain store against its teachers, as a build does."""
    prepare_chains(
        config.build,
        teachers=run_teachers(config),
        corpus=config.folder.corpus,
        out=config.folder.chains,
    )


@pytest.fixture
def chains(config: RunConfig, corpus: None) -> Path:
    """The chain store of `config`, with chains of a build."""
    held = config.folder.chains.rename(config.folder.root / "held")
    prepare_store(config)
    return held.rename(config.folder.chains)


@LATER
def test_a_chain_store_is_used_on(config: RunConfig, chains: Path, later: Later) -> None:
    before = record_file(chains).read_text()
    prepare_store(later(config))
    assert record_file(chains).read_text() == before
    other = config.model_copy(
        update={"reasoning": config.reasoning.model_copy(update={"max_steps": 4})}
    )
    with pytest.raises(InputError, match=r"reasoning\.max_steps: 5 → 4"):
        prepare_store(other)


@LATER
def test_a_half_done_build_is_resumed(config: RunConfig, corpus: None, later: Later) -> None:
    partial = partial_dir(config.folder.chains)

    def prepare(config: RunConfig) -> bool:
        """Whether what was there is there still."""
        teacher = run_teachers(config)[0]
        _prepare_partial(partial, answers_identity(CORPUS, "", teacher.identity, "qa"), ignore=())
        found = (partial / "done.parquet").exists()
        (partial / "done.parquet").touch()
        return found

    assert not prepare(config)
    assert prepare(config)
    assert prepare(later(config))
    build = config.build.model_copy(update={"temperature": 0.5})
    assert not prepare(config.model_copy(update={"build": build}))


@LATER
def test_a_finished_student_is_used(config: RunConfig, later: Later, monkeypatch: Any) -> None:
    """Also after rules were raised, and with other checkpoints; it would take Ray to train another."""
    select_run(config)
    task = task_of(config, stepwise_files(config.folder.examples))
    config.folder.student.mkdir()
    (config.folder.root / "training").mkdir()
    done = config.folder.root / "training" / DONE_FILE
    write_record(done, {**task_identity(task), "summary": asdict(SUMMARY)})
    assert train_student(config) == SUMMARY
    assert train_student(later(config)) == SUMMARY
    for rule in RULES:
        monkeypatch.setitem(RULES, rule, RULES[rule] + 1)
    assert train_student(later(config)) == SUMMARY
    unsharded = config.train.model_copy(update={"zero_stage": 1})
    assert train_student(config.model_copy(update={"train": unsharded})) == SUMMARY


def test_a_finished_student_that_has_lost_files_is_made_again(
    config: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = config.folder
    task = task_of(config, [])
    folder.student.mkdir()
    (folder.student / "weights").write_text("12")
    (folder.student / "README.md").write_text("")
    values = {**task_identity(task), "summary": asdict(SUMMARY), "files": {"weights": 2}}
    write_record(folder.training / DONE_FILE, values)
    (folder.student / "README.md").write_text("scores, which an evaluation adds")
    assert finished_training(folder, task_identity(task)) == (SUMMARY, [])
    assert capsys.readouterr().out == ""
    (folder.student / "weights").write_text("1")
    assert finished_training(folder, task_identity(task)) == (None, [])
    line = f"  train  {folder.student} has lost files since it was trained: it is made again\n"
    assert capsys.readouterr().out == line


@LATER
def test_a_half_done_training_is_resumed(
    config: RunConfig, later: Later, monkeypatch: Any, capsys: Any
) -> None:
    select_run(config)
    files = stepwise_files(config.folder.examples)

    def checkpoints(config: RunConfig) -> Path:
        return find_checkpoints(config.folder, task_identity(task_of(config, files)))

    before = checkpoints(config)
    capsys.readouterr()
    assert checkpoints(later(config)) == before
    assert capsys.readouterr().out == ""
    raised = RULES["objective"] + 1
    monkeypatch.setitem(RULES, "objective", raised)  # steps of both would mix
    assert checkpoints(config) != before
    reason = f"starts anew because rules.objective changed ({raised - 1} → {raised})"
    assert reason in capsys.readouterr().out


@LATER
def test_a_half_done_sweep_is_resumed(config: RunConfig, later: Later, capsys: Any) -> None:
    select_run(config)
    before = sweep_folder(config)
    capsys.readouterr()
    assert sweep_folder(later(config)) == before
    assert capsys.readouterr().out == ""
    more = config.sweep.model_copy(update={"trials": 9})
    assert sweep_folder(config.model_copy(update={"sweep": more})) == before
    assert capsys.readouterr().out == ""
    other = more.model_copy(update={"asha_grace": 2})
    assert sweep_folder(config.model_copy(update={"sweep": other})) != before
    said = capsys.readouterr().out
    assert (
        f"starts anew because sweep.asha_grace changed (1 → 2); trials of {before} remain" in said
    )


def test_another_teacher_at_the_same_path_is_refused_and_a_copied_one_is_not(
    config: RunConfig, chains: Path
) -> None:
    teacher = Path(config.build.teacher)
    moved = shutil.copytree(teacher, teacher.with_name("moved"), copy_function=shutil.copyfile)
    build = config.build.model_copy(update={"teacher": str(moved)})
    copied = config.model_copy(update={"build": build})
    prepare_store(copied)

    shutil.copyfile(MODELS / "base" / "model.safetensors", teacher / "model.safetensors")
    with pytest.raises(
        InputError, match=r"made with other settings: teacher\.weights: '"
    ) as refused:
        prepare_store(config)
    assert "teacher.config" not in str(refused.value)
    shutil.copyfile(MODELS / "base" / "config.json", teacher / "config.json")
    with pytest.raises(InputError, match=r"teacher\.config: '"):
        prepare_store(config)


def test_a_raised_rule_of_scoring_selects_again_and_asks_nobody(
    config: RunConfig, chains: Path, monkeypatch: Any
) -> None:
    def ask(wanted: Any, *_: Any, **__: Any) -> None:
        raise AssertionError(f"asked for {wanted}")

    monkeypatch.setattr("steper_ray.chains.build.write_chains", ask)
    alone = config.build.model_copy(update={"ensemble": ()})
    config = config.model_copy(update={"build": alone})
    shutil.rmtree(config.folder.chains)
    prepare_store(config)
    chains.mkdir()
    rows = [asdict(chain) for chain in numbered(range(4), em=0.0, right=0.0, f1=0.0, acc=0.0)]
    pq.write_table(pa.Table.from_pylist(rows, CHAIN_SCHEMA), chains / "a.parquet")
    assert build_run(config).kept == 0
    monkeypatch.setitem(RULES, "match", RULES["match"] + 1)
    again = build_run(config)
    assert (again.usage.asked, again.kept) == (0, 4)
    assert {(c.em, c.f1, c.answer) for c in read_chains(chains)} == {(1.0, 1.0, CHAIN.answer)}
    record = read_record(record_file(chains))
    assert record is not None
    assert (record["rules"]["match"], record["rules"]["parse"]) == ([3], [RULES["parse"]])


def test_a_raised_rule_of_asking_is_refused_before_anybody_is_asked(
    config: RunConfig, chains: Path, monkeypatch: Any
) -> None:
    monkeypatch.setitem(RULES, "prompt", 2)
    with pytest.raises(InputError, match="4 chains were made with prompt rule 1, new ones with 2"):
        build_run(config)
    mix = config.model_copy(update={"build": config.build.model_copy(update={"mix": True})})
    prepare_store(mix)
    record = read_record(record_file(chains))
    assert record is not None
    assert record["rules"]["prompt"] == [1, 2]


def test_answers_are_used_on_and_scored_by_the_rules_of_today(
    config: RunConfig, corpus: None, monkeypatch: Any
) -> None:
    """Without Ray: a question asked would fail."""
    model, out = config.train.model, config.folder.root / "compare" / "base" / "test"
    out.mkdir(parents=True)
    chains = numbered(range(3), em=0.0, right=0.0)
    pq.write_table(
        pa.Table.from_pylist([asdict(chain) for chain in chains], CHAIN_SCHEMA), out / "a.parquet"
    )
    record = answers_identity(CORPUS, "", evaluated_model(config, model).identity, "qa")
    write_record(out.with_name("test.identity.json"), record)
    asked = [
        Question(
            chain.id,
            chain.question,
            chain.gold_answers[0],
            chain.gold_answers[1:],
            chain.supporting_ids,
            chain.hops,
        )
        for chain in chains
    ]

    def ask(*_: Any, **__: Any) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr("steper_ray.evaluation.answer.answer", ask)
    searched = config.folder.corpus

    def scores(run: RunConfig) -> list[float]:
        return [row["em"] for row in _answers(run, model, out, asked, searched)]

    assert scores(config) == [0.0] * 3
    assert scores(with_added_keys(config)) == [0.0] * 3
    wrong = SimpleNamespace(score=lambda *_: dict.fromkeys(SCORES, 0.5), is_right=lambda _: False)
    monkeypatch.setitem(TASKS, "wrong", wrong)
    questions = config.questions.model_copy(update={"task": "wrong"})
    other = config.model_copy(update={"questions": questions})
    assert scores(other) == [0.5] * 3
    monkeypatch.setitem(RULES, "match", RULES["match"] + 1)
    assert scores(config) == [1.0] * 3
    other_gold = [replace(asked[0], answer="Rome"), *asked[1:]]
    for questions_now in (other_gold, asked[1:], [*asked, replace(asked[0], id="more")]):
        with pytest.raises(AssertionError, match="asked again"):
            _answers(config, model, out, questions_now, searched)
        write_record(out.with_name("test.identity.json"), record)
    monkeypatch.setitem(RULES, "search", RULES["search"] + 1)
    with pytest.raises(AssertionError, match="asked again"):
        scores(config)


@LATER
def test_a_finished_stage_of_the_demo_stays_finished(config: RunConfig, later: Later) -> None:
    def abilities(config: RunConfig) -> dict[str, Any]:
        return {name: stage_identity(name, stage_inputs(name, config)) for name in DEMO_STAGES}

    before = abilities(config)
    assert abilities(later(config)) == before
    assert str(config.folder.root) not in json.dumps(before)  # the run folder may be moved
    more = config.train.model_copy(update={"epochs": 9})
    now = abilities(config.model_copy(update={"train": more}))
    assert [name for name in DEMO_STAGES if differences(before[name], now[name])] == ["train"]


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    from steper_ray.training.checkpoints import load_state, save_state

    save_state(tmp_path, {"workers": 2}, {})
    assert load_state(tmp_path)[0]["workers"] == 2
    file = tmp_path / "state.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "format": 2, "steper_ray": "5.0"}))
    with pytest.raises(InputError, match=r"written by steper_ray 5\.0 in format 2"):
        load_state(tmp_path)
