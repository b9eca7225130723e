"""`steper select`: verdicts again, killed commands, what the command says, bad input."""

import json
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.store import new_dir
from steper_ray.cli import main
from steper_ray.errors import InputError
from steper_ray.pipeline.select import select_run
from steper_ray.reasoning.frameworks import ircot
from steper_ray.run.lock import locked
from steper_ray.schema import Chain
from steper_ray.selection.choice import select
from tests.conftest import ROOT
from tests.samples import CHAIN, PASSAGES, config, step, write
from tests.selection.test_dataset import MIXED, files, run_file, verdicts


def test_choosing_again(tmp_path: Path) -> None:
    run = config(tmp_path)
    write(run.folder.chains, MIXED, per_file=5)
    select_run(run, {"seconds": 20.0, "tokens_per_second": 3.5, "versions": {}})
    stats = run.folder.stats.read_text()
    first = files(run.folder.dataset)

    stricter = select_run(config(tmp_path, min_steps=4))
    assert stricter.changes == {(None, "too_few_steps"): 10}
    assert verdicts(run.folder.chains)["q000"] == "too_few_steps"
    assert files(run.folder.dataset) != first

    again = select_run(run)
    assert again.changes == {("too_few_steps", None): 10}
    assert files(run.folder.dataset) == first
    assert run.folder.stats.read_text() == stats  # what is known of the teacher's run, too

    before = {f.name: f.stat().st_mtime_ns for f in run.folder.chains.iterdir()}
    assert not select_run(run).changes
    assert {f.name: f.stat().st_mtime_ns for f in run.folder.chains.iterdir()} == before


def test_all_but_the_verdict_stays_as_it_is(tmp_path: Path) -> None:
    run = config(tmp_path, max_steps=2)
    write(run.folder.chains, MIXED, per_file=4)
    before = {f.name: pq.read_table(f) for f in run.folder.chains.iterdir()}
    select_run(run)
    for file in run.folder.chains.iterdir():
        after = pq.read_table(file)
        assert after.schema.equals(CHAIN_SCHEMA)
        assert after.drop("rejected").equals(before[file.name].drop("rejected"))


SELECT_FOR_EVER = """
import sys
from itertools import cycle
from pathlib import Path
from steper_ray.pipeline.select import select_run as write_examples
from tests.samples import config

for least in cycle((1, 4)):
    write_examples(config(Path(sys.argv[1]), min_steps=least))
    print(least, flush=True)
"""


def test_killed_at_any_moment_the_verdicts_are_the_old_ones_or_the_new(tmp_path: Path) -> None:
    runs = [config(tmp_path, min_steps=least) for least in (1, 4)]
    chains_dir, expected = runs[0].folder.chains, [select(MIXED, r.select, ircot) for r in runs]
    write(chains_dir, MIXED, per_file=1)
    wait = random.Random(0)
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", SELECT_FOR_EVER, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(wait.uniform(0.0, 1.5))
        process.kill()
        process.wait()
        process.stdout.close()
        there = chains_dir if chains_dir.is_dir() else new_dir(chains_dir)
        assert verdicts(there) in expected
        assert len(list(there.iterdir())) == len(MIXED)
    select_run(runs[0])
    assert verdicts(chains_dir) == expected[0]
    assert not [*tmp_path.glob("*.partial*"), *tmp_path.glob("chains.[!l]*")]


def test_what_a_killed_command_had_finished_is_taken_up(tmp_path: Path) -> None:
    run = config(tmp_path)
    write(new_dir(run.folder.chains), MIXED)  # between the two renamings
    assert select_run(run).counts.chains == len(MIXED)
    assert not new_dir(run.folder.chains).exists()


def test_the_command_says_what_it_did(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "chains", MIXED)
    options = ["--config", str(run_file(tmp_path))]
    assert main(["select", *options]) == 0
    assert main(["select", *options, "--set", "select.per_hops=3"]) == 0
    assert main(["select", *options, "--set", "select.per_hops=3"]) == 0
    said = capfd.readouterr().out
    assert "13 chains = 10 kept + 3 rejected (1 error, 1 wrong_answer, 1 ungrounded)" in said
    assert "(1 error, 1 wrong_answer, 1 ungrounded, 4 surplus)" in said
    assert "changed: 4 kept → surplus\n" in said
    assert said.count("changed: nothing\n") == 1
    assert f"examples: init 6 · exp 6 · agg 6 → {tmp_path / 'stepwise'}" in said


def break_nothing(_: Path) -> None: ...


def make_text(chains: Path) -> None:
    (chains / "b.parquet").write_text("no")


def cut_short(chains: Path) -> None:
    file = chains / "part-0000.parquet"
    file.write_bytes(file.read_bytes()[:-20])


def drop_a_column(chains: Path) -> None:
    pq.write_table(pa.table({"id": ["q"], "question": ["?"]}), chains / "b.parquet")


def repeat_an_id(chains: Path) -> None:
    table = pq.read_table(chains / "part-0000.parquet").slice(0, 1)
    pq.write_table(table, chains / "z.parquet")


def remove_all(chains: Path) -> None:
    (chains / "part-0000.parquet").unlink()


@pytest.mark.parametrize(
    ("break_it", "option", "said"),
    [
        (remove_all, "", "chains: no chains; run `steper build` first"),
        (make_text, "", "b.parquet: not a Parquet file ("),
        (cut_short, "", "part-0000.parquet: not a Parquet file ("),
        (drop_a_column, "", "b.parquet: no column 'question_id'; these are not a teacher's chains"),
        (repeat_an_id, "", "z.parquet: a chain has the id 'q000', as one in "),
        (break_nothing, "select.min_f1=2", "select.min_f1: must be less than or equal to 1"),
        (break_nothing, "select.per_hops=even", "per_hops: expected a number of chains above 0, `equal`"),
        (break_nothing, "select.max_steps=0", "select.max_steps: must be greater than 0"),
        (break_nothing, "build.push_to_hub=me", "build.push_to_hub: 'me' is no name of a Hub"),
        (break_nothing, "run.data=/elsewhere", "run.data: this run uses the data of /elsewhere"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_line_and_changes_nothing(
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    break_it: Any,
    option: str,
    said: str,
) -> None:
    write(tmp_path / "chains", MIXED)
    break_it(tmp_path / "chains")
    before = files(tmp_path / "chains")
    options = ["--config", str(run_file(tmp_path))] + (["--set", option] if option else [])
    assert main(["select", *options]) == 2
    error = capfd.readouterr().err.strip()
    assert said in error
    assert "\n" not in error
    assert files(tmp_path / "chains") == before
    assert not (tmp_path / "stepwise").exists()


def test_somebody_else_is_writing(tmp_path: Path) -> None:
    run = config(tmp_path)
    write(run.folder.chains, MIXED)
    with locked(run.folder.chains), pytest.raises(InputError, match="another command is writing"):
        select_run(run)


def test_samples_of_one_question_are_chains_of_their_own(tmp_path: Path) -> None:
    samples: list[Chain] = [replace(CHAIN, id=f"q1-{number}") for number in range(3)]
    run = config(tmp_path, choose="all")
    samples[1] = replace(samples[1], steps=(step("Kek Bibro.", "p1"),), passages=PASSAGES[:1])
    write(
        run.folder.chains,
        [*samples, replace(CHAIN, id="q2-0", question_id="q2", em=0.0, right=0.0)],
    )
    selected = select_run(run)
    assert (selected.questions, selected.counts.chains, selected.counts.kept) == (2, 4, 2)
    assert selected.counts.rejected == {"wrong_answer": 1, "duplicate": 1}
    assert json.loads(run.folder.stats.read_text())["questions"] == {"all": 2, "kept": 1}
    first = select_run(config(tmp_path))
    assert first.counts.rejected == {"wrong_answer": 1, "not_chosen": 2}
    assert first.changes == {("duplicate", "not_chosen"): 1, (None, "not_chosen"): 1}
