"""The whole line once, small, on every real engine; then what it wrote, and what breaks it."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.rows import read_chains
from steper_ray.cli import TOY_RUN_FILE, main
from steper_ray.data.questions import read_questions
from steper_ray.errors import InputError, StageError
from steper_ray.evaluation.compare import compare
from steper_ray.evaluation.settings import CompareConfig
from steper_ray.models.student_settings import carried_settings
from steper_ray.pipeline.build import build_run
from steper_ray.pipeline.demo import demo, first_of_each_hops
from steper_ray.pipeline.select import select_run
from steper_ray.pipeline.training import train_student
from steper_ray.ray_runtime.progress import StageProgress
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.retrieval import corpus_version, open_retriever
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.schema import ABILITIES, Question
from steper_ray.selection.rejection import REJECTIONS
from steper_ray.tasks.qa import exact_match
from steper_ray.toy.world import make_world
from tests.end_to_end.test_dashboard import DASHBOARDS
from tests.fakes import hits_of
from tests.processes import heed_ctrl_c

SMALL = [
    "toy.scale=0.2",
    "toy.seed=11",
    "toy.train=90",
    "toy.dev=15",
    "toy.test=15",
    "train.epochs=1",
    "train.chains_per_batch=30",
    # for the dashboards
    "train.checkpoint_every_steps=1",
    "train.validation_chains=6",
    "train.validate_every_steps=2",
]

EMPTY: Final = {
    "ray_steper_train_mix_loss": "no train.mix",
    "ray_steper_train_mfu": "on GPUs only",
}
"""Series that such a run does not have."""

SCRAPED_WITHIN_S: Final = 60

Query = Callable[[str], list[Any]]


@pytest.fixture(scope="module")
def run(query: Query | None, tmp_path_factory: pytest.TempPathFactory, free_port: int) -> RunConfig:
    """A finished small demo run, scraped by a Prometheus."""
    folder = tmp_path_factory.mktemp("watched")
    config = load_config(TOY_RUN_FILE, [*SMALL, f"run.dir={folder}", f"serve.port={free_port}"])
    demo(config)
    return config


def test_the_demo_writes_its_summary(run: RunConfig) -> None:
    summary = json.loads((run.folder.root / "summary.json").read_text())
    assert set(summary["models"]) == {"base", "student", "teacher"}
    for scores in summary["models"].values():
        assert set(scores) == {"em", "f1", "acc"}
        assert all(0 <= value <= 1 for value in scores.values())
    assert list(summary["stages"]) == ["toy", "index", "build", "train", "eval", "serve"]
    assert all(stage["seconds"] > 0 for stage in summary["stages"].values())
    assert summary["models"]["teacher"]["em"] >= 0.6
    assert summary["models"]["base"]["em"] < 0.15
    replies = summary["served"]["replies"]
    asked = first_of_each_hops(read_questions(run.questions.dev, "questions.dev"))
    assert [reply["hops"] for reply in replies] == [question.hops for question in asked]
    assert [reply["question"] for reply in replies] == [question.question for question in asked]
    right = [
        exact_match(reply["answer"], question.gold_answers) == 1.0
        for reply, question in zip(replies, asked, strict=True)
    ]
    assert [reply["right"] for reply in replies] == right
    assert summary["served"]["right"] == sum(right)


def test_the_dashboards_find_their_series(run: RunConfig, query: Query | None) -> None:
    if query is None:
        pytest.skip("no prometheus on the PATH (Debian: .ci/prometheus unpacks it into .venv)")
    name = run.folder.root.name
    last = f'ray_steper_train_step{{run="{name}"}}'
    rows = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    deadline = time.monotonic() + SCRAPED_WITHIN_S
    while not (found := query(last)) or float(found[0]["value"][1]) < rows[-1]["step"]:
        assert time.monotonic() < deadline, f"{last}: {found} after {rows[-1]['step']} steps"
        time.sleep(1)
    (done,) = query(f'max(ray_steper_asked_questions_total{{stage="build", run="{name}"}})')
    assert float(done["value"][1]) == 90
    (loss,) = query(f'ray_steper_train_loss{{run="{name}"}}')
    assert any(float(loss["value"][1]) == pytest.approx(row["loss"]) for row in rows)
    asking, training = (board for board in DASHBOARDS if board.name != "serving")
    for expression in (*asking.drawn, *training.drawn):
        filled = expression.replace("$__rate_interval", "10m")
        filled = re.sub(r"\$\w+", ".*", filled)
        expected = not any(name in expression for name in EMPTY)
        assert bool(query(filled)) == expected, filled


def test_the_demo_asks_the_first_question_of_each_hop_count() -> None:
    questions = [Question(str(n), "?", "x", hops=h) for n, h in enumerate([3, 4, 2, 3, 2, 4])]
    assert [question.id for question in first_of_each_hops(questions)] == ["2", "0", "1"]
    assert first_of_each_hops([Question("a", "?", "x"), Question("b", "?", "x")])[0].id == "a"


def test_every_question_is_accounted_for(run: RunConfig) -> None:
    chains = pd.read_parquet(run.folder.chains)
    assert len(chains) == chains["id"].nunique() == 90
    kept = chains[chains["rejected"].isna()]
    assert (kept["em"] == 1).all()
    assert (chains[chains["rejected"] == "wrong_answer"]["em"] == 0).all()
    assert set(chains["rejected"].dropna()) <= set(REJECTIONS)
    examples = pq.read_table(run.folder.examples).to_pandas()
    assert len(examples) == sum(len(steps) for steps in kept["steps"])
    assert set(examples["chain_id"]) == set(kept["id"])
    assert set(examples["ability"]) == set(ABILITIES)


def test_the_teacher_searched_with_its_own_sentences(run: RunConfig) -> None:
    world = make_world(run.toy.seed, run.toy.scale)
    retriever = open_retriever(run.folder.corpus)
    passages = {p.id: p for p in world.passages()}
    for chain in read_chains(run.folder.chains)[:20]:
        assert chain.steps[0].query == chain.question
        for before, after in zip(chain.steps, chain.steps[1:], strict=False):
            assert after.query == before.rationale
        seen: set[str] = set()
        for step in chain.steps:
            hits = hits_of(retriever, step.query, run.reasoning.passages_per_step)
            new = [h.passage.id for h in hits if h.passage.id not in seen]
            assert list(step.passage_ids) == new
            seen |= set(new)
            assert step.mean_logprob is not None
            assert step.mean_logprob <= 0
            assert step.generated_tokens > 0
        assert [p.id for p in chain.passages] == [i for s in chain.steps for i in s.passage_ids]
        assert all(passages[p.id] == p for p in chain.passages)
        assert chain.corpus_version == retriever.version


def test_only_questions_without_a_chain_are_asked_and_other_settings_are_refused(
    run: RunConfig, tmp_path: Path
) -> None:
    """Ends as it began: the chains of the run are those of the demo."""
    again = build_run(run)
    assert (again.usage.asked, again.questions) == (0, 90)

    before = {chain.id: chain for chain in read_chains(run.folder.chains)}
    failed = sorted(before)[:2]
    rows = [row for row in pq.read_table(run.folder.chains).to_pylist() if row["id"] != failed[1]]
    next(row for row in rows if row["id"] == failed[0])["error"] = "as if it had been refused"
    shutil.copytree(run.folder.chains, tmp_path / "chains")
    for file in run.folder.chains.glob("*.parquet"):
        file.unlink()
    table = pa.Table.from_pylist(rows, schema=CHAIN_SCHEMA)
    pq.write_table(table, run.folder.chains / "part.parquet")
    again = build_run(run)
    assert (again.usage.asked, again.questions) == (2, 90)
    after = {chain.id: chain for chain in read_chains(run.folder.chains)}
    assert after.keys() == before.keys()
    for name in failed:
        assert after[name].answer == before[name].answer
        assert after[name].error is None

    other = run.reasoning.model_copy(update={"max_steps": 4})
    with pytest.raises(InputError, match=r"reasoning\.max_steps: 5 → 4"):
        build_run(run.model_copy(update={"reasoning": other}))
    shutil.rmtree(run.folder.chains)
    shutil.copytree(tmp_path / "chains", run.folder.chains)
    select_run(run)


def test_choosing_again_needs_no_teacher_and_gives_the_same(run: RunConfig) -> None:
    before = pq.read_table(run.folder.examples).sort_by("id")
    select_run(run)
    assert pq.read_table(run.folder.examples).sort_by("id").equals(before)


def test_the_student_carries_how_it_was_trained(run: RunConfig) -> None:
    carried = carried_settings(str(run.folder.student))
    complete = complete_reasoning(run.reasoning)
    trained = complete.model_copy(update={"chat": False})  # its tokenizer has no template
    assert carried == (trained, corpus_version(run.folder.corpus))
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(run.folder.student)
    base = AutoModelForCausalLM.from_pretrained(run.train.model)
    assert AutoTokenizer.from_pretrained(run.folder.student)("a")["input_ids"]
    changed = [
        not a.equal(b)
        for a, b in zip(model.state_dict().values(), base.state_dict().values(), strict=True)
    ]
    assert sum(changed) > len(changed) / 2  # bfloat16 rounds small changes of the norms away


def test_training_metrics_are_one_line_a_step(run: RunConfig) -> None:
    rows = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, rows[-1]["steps"] + 1))
    for row in rows:
        assert row["loss"] is not None
        assert {f"L_{s}" for s in ABILITIES} | {f"sigma_{s}" for s in ABILITIES} <= set(row)
    assert list((run.folder.metrics.parent / "tensorboard").glob("events*"))


def test_the_report_stands_alone(run: RunConfig) -> None:
    page = (run.folder.evaluation / "report.html").read_text()
    assert "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_nothing_half_written_is_left(run: RunConfig) -> None:
    assert not list(run.folder.root.rglob("*.partial*"))


def test_a_way_of_learning_is_compared_and_nothing_is_done_twice(run: RunConfig) -> None:
    best = {"validation_chains": 20, "validate_every_steps": 1, "best_by": "em", "workers": 1}
    section = CompareConfig(
        variants={"difficulty": best},
        baseline="difficulty",
        seeds=(0,),
        repeated=(),
    )
    config = run.model_copy(update={"compare": section})
    compared, _ = compare(config, StageProgress("compare", None, None), train_student)
    by_name = {contender.name: contender for contender in compared.contenders}
    assert list(by_name) == ["base", "difficulty", "teacher"]
    assert all(contender.summary.overall.questions == 15 for contender in compared.contenders)
    assert by_name["teacher"].summary.overall.em > by_name["base"].summary.overall.em
    assert by_name["difficulty"].input_tokens > 0
    folder = config.folder.compare / "difficulty" / "lr-0.001-seed-0"
    done = json.loads((folder / "training" / "done.json").read_text())["summary"]
    assert (
        done["chains"]
        == len([c for c in read_chains(run.folder.chains) if c.rejected is None]) - 20
    )
    assert done["validation_loss"] > 0
    assert not (folder / "training" / "candidates").exists()
    assert (config.folder.compare / "comparison.json").is_file()

    def made() -> dict[Path, int]:
        """When each student and each chain was written."""
        files = config.folder.compare.rglob("*")
        kinds = (".safetensors", ".parquet")
        return {file: file.stat().st_mtime_ns for file in files if file.suffix in kinds}

    before = made()
    assert before
    assert compare(config, StageProgress("compare", None, None), train_student)[0] == compared
    assert made() == before


def test_a_second_demo_takes_up_where_the_first_stopped(
    run: RunConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    stamp = (run.folder.student / "config.json").stat().st_mtime_ns
    with (
        closing(socket.create_server(("127.0.0.1", run.serve.port))),
        pytest.raises(InputError, match=r"serve\.port: cannot listen on"),
    ):
        demo(run)  # all but serving, which the first one did
    assert (run.folder.student / "config.json").stat().st_mtime_ns == stamp
    # Tests before this one wrote the same examples anew: training looks at them and finds its student.
    assert capsys.readouterr().out.count("already done with these settings and files") >= 3


def test_a_failing_stage_is_named_with_its_log(run: RunConfig, tmp_path: Path) -> None:
    """By an engine without room for keys and values, which only its own process finds out."""
    bad_args = {**run.engine.args, "num_gpu_blocks_override": 1}
    bad_engine = run.engine.model_copy(update={"args": bad_args})
    questions = pq.read_table(run.questions.train)
    another = {**questions.slice(0, 1).to_pylist()[0], "id": "one-more"}
    rows = [*questions.to_pylist(), another]
    pq.write_table(pa.Table.from_pylist(rows, questions.schema), tmp_path / "more.parquet")
    more = run.questions.model_copy(update={"train": str(tmp_path / "more.parquet")})
    config = run.model_copy(update={"engine": bad_engine, "questions": more})
    chains = (run.folder.chains.stat().st_mtime_ns, sorted(run.folder.chains.iterdir()))
    with pytest.raises(StageError, match=r"stage build failed: .*logs/build/latest"):
        demo(config)
    assert chains == (run.folder.chains.stat().st_mtime_ns, sorted(run.folder.chains.iterdir()))


@pytest.mark.parametrize(
    ("command", "override", "said"),
    [
        (
            "index",
            "corpus.passages=/nowhere.jsonl",
            "corpus.passages: /nowhere.jsonl: no such file",
        ),
        ("build", "build.teacher=/nowhere", "build.teacher: /nowhere: no such model folder"),
        ("build", "questions.train=/nowhere.jsonl", "questions.train: /nowhere.jsonl: no such"),
        ("train", "train.model=/tmp", "train.model: /tmp: not a model folder"),
        ("eval", "eval.models={x: /nowhere}", "eval.models.x: /nowhere: no such model folder"),
        ("serve", "serve.model=/nowhere", "serve.model: /nowhere: no such model folder"),
        ("train", "train.modle=x", "train.modle: unknown key; did you mean model?"),
    ],
)
def test_bad_input_is_one_clear_line_and_exit_code_2(
    run: RunConfig,
    capfd: pytest.CaptureFixture[str],
    command: str,
    override: str,
    said: str,
) -> None:
    arguments = [
        "--config",
        str(TOY_RUN_FILE),
        "--set",
        f"run.dir={run.folder.root}",
        "--set",
        override,
    ]
    assert main([command, *arguments]) == 2
    error = capfd.readouterr().err.strip()
    assert said in error
    assert "\n" not in error


@pytest.mark.engine
def test_ctrl_c_ends_a_command_with_all_its_processes(tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it."""
    command = [sys.executable, "-m", "steper_ray.cli", "index", "--config", str(TOY_RUN_FILE)]
    rows = tmp_path / "p.jsonl"
    rows.write_text(
        "".join(json.dumps({"id": i, "title": "T", "text": "x"}) + "\n" for i in range(400_000))
    )
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets need a short path
    process = subprocess.Popen(
        [*command, "--set", f"run.dir={tmp_path / 'run'}", "--set", f"corpus.passages={rows}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "RAY_TMPDIR": folder},
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,
    )
    assert process.stdout is not None
    assert "indexing" in process.stdout.readline()
    while not list((tmp_path / "run").glob("corpus-*.lance/data/*")):  # some passages are written
        assert process.poll() is None
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert errors.strip().endswith("steper: interrupted")
    assert not (tmp_path / "run" / "corpus.lance").exists()
    _, alive = psutil.wait_procs(children, timeout=120)
    assert not alive
    shutil.rmtree(folder, ignore_errors=True)
