"""Chains in, verdicts and a data set out: the same however they lie, whole, and read by others' tools."""

import json
import os
import random
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from steper_ray.arrow import CHAIN_SCHEMA, STEP_EXAMPLE_SCHEMA
from steper_ray.chains.rows import read_chains
from steper_ray.chains.store import new_dir
from steper_ray.cli import main
from steper_ray.errors import InputError
from steper_ray.pipeline.select import select_run
from steper_ray.reasoning.frameworks import ircot
from steper_ray.run.lock import locked
from steper_ray.schema import Chain
from steper_ray.selection.choice import Judgement, select
from steper_ray.selection.shards import CHAINS_PER_SHARD, plan_shards
from steper_ray.training.tokenization import stepwise_files
from tests.conftest import ROOT
from tests.samples import CHAIN, PASSAGES, config, numbered, step, write

MIXED = [
    *numbered(range(6), hops=2),
    *numbered(range(6, 10), hops=3),
    *numbered([10], em=0.0),
    *numbered([11], error="too long", em=0.0, steps=()),
    *numbered([12], steps=(step("Foo Bar."), *CHAIN.steps)),
]
"""Ten good chains and three that are not."""


def verdicts(chains_dir: Path) -> dict[str, str | None]:
    return {chain.id: chain.rejected for chain in read_chains(chains_dir)}


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def test_verdicts_examples_statistics_and_card(tmp_path: Path) -> None:
    run = config(tmp_path, per_hops=4)
    write(run.folder.chains, MIXED, per_file=5)
    told = {"seconds": 20.0, "tokens_per_second": 3.5, "versions": {"vllm": "0.29.0"}}
    selected = select_run(run, told)

    expected = select(MIXED, run.select, ircot)
    assert verdicts(run.folder.chains) == expected
    assert sum(reason == "surplus" for reason in expected.values()) == 2
    assert selected.changes == {
        (None, "surplus"): 2,
        (None, "wrong_answer"): 1,
        (None, "error"): 1,
        (None, "ungrounded"): 1,
    }
    kept = sorted(chain_id for chain_id, reason in expected.items() if reason is None)
    table = pq.read_table(run.folder.examples)
    assert table.schema.equals(STEP_EXAMPLE_SCHEMA)
    assert table["id"].to_pylist() == [f"{i}/{s}" for i in kept for s in (1, 2, 3)]

    stats = json.loads(run.folder.stats.read_text())
    assert stats["questions"] == {"all": 13, "kept": 8}
    assert stats["chains"]["kept"] + sum(stats["chains"]["rejected"].values()) == 13
    assert stats["examples"] == {"init": 8, "exp": 8, "agg": 8}
    # Twelve chains of three steps of 5 tokens, one of them with a fourth; in 20 seconds.
    assert stats["build"] == {
        "seconds": 20.0,
        "versions": {"vllm": "0.29.0"},
        "tokens_per_second": 3.5,
    }
    assert stats["settings"]["select"]["per_hops"] == 4
    assert str(tmp_path) not in run.folder.stats.read_text()
    card = DatasetCard.load(run.folder.dataset / "README.md")
    assert "24 examples" in card.text
    assert "![" in card.text
    assert {f.name for f in run.folder.dataset.iterdir()} == {
        *("README.md", "data", "prompt_tokens.png", "generated_tokens.png")
    }
    assert {f.name for f in tmp_path.iterdir()} == {
        *("chains", "chains.lock", "stepwise", "stats.json")
    }


def test_however_the_chains_lie_the_data_set_is_the_same(tmp_path: Path) -> None:
    written, judged = [], []
    for number, per_file in enumerate((13, 2)):
        run = config(tmp_path / str(number), per_hops="equal")
        chains = MIXED if number else random.Random(0).sample(MIXED, len(MIXED))
        write(run.folder.chains, chains, per_file)
        select_run(run)
        written.append(files(run.folder.dataset))
        judged.append(verdicts(run.folder.chains))
    assert written[0] == written[1]
    assert judged[0] == judged[1]


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


def test_chains_of_an_older_version_are_read(tmp_path: Path) -> None:
    run = config(tmp_path, min_support=1.0)
    write(run.folder.chains, MIXED[:2])
    (file,) = run.folder.chains.iterdir()
    pq.write_table(pq.read_table(file).drop("supporting_ids"), file)
    assert select_run(run).counts.kept == 2


def test_a_data_set_without_examples_is_one_still(tmp_path: Path) -> None:
    run = config(tmp_path, min_steps=9)
    write(run.folder.chains, MIXED)
    assert select_run(run).counts.kept == 0
    table = pq.read_table(run.folder.examples)
    assert (table.num_rows, table.schema) == (0, STEP_EXAMPLE_SCHEMA)
    assert "0 examples" in (run.folder.dataset / "README.md").read_text()
    with pytest.raises(InputError, match="no chain was kept"):
        stepwise_files(run.folder.examples)


def test_shards() -> None:
    ids = [f"q{number:05d}" for number in range(2 * CHAINS_PER_SHARD + 1)]
    where = {
        Path("a"): [Judgement(i, i, 2, None, None) for i in ids[::2]],
        Path("b"): [Judgement(i, i, 2, None, None) for i in ids[1:-1:2]],
        Path("c"): [Judgement("x", "x", 2, "error", None)],
    }
    shards = plan_shards(where, dict.fromkeys(ids) | {"x": "error"})
    assert [shard.name for shard in shards] == [
        f"train-0000{number}-of-00003.parquet" for number in range(3)
    ]
    assert [chain_id for shard in shards for chain_id in shard.ids] == ids
    assert shards[0].files == (Path("a"), Path("b"))
    assert shards[2].files == (Path("a"),)
    (empty,) = plan_shards({}, {})
    assert (empty.name, empty.ids) == ("train-00000-of-00001.parquet", ())


READ = """
import json, sys
from datasets import Features, load_dataset
from steper_ray.arrow import CHAIN_SCHEMA, STEP_EXAMPLE_SCHEMA

folder, chains, cache = sys.argv[1:]
found = {
    "folder": load_dataset(folder, split="train", cache_dir=cache),
    "parquet": load_dataset("parquet", data_dir=folder + "/data", split="train", cache_dir=cache),
}
for name, rows in found.items():
    assert rows.features == Features.from_arrow_schema(STEP_EXAMPLE_SCHEMA), name
streamed = list(load_dataset(folder, split="train", streaming=True))
raw = load_dataset("parquet", data_dir=chains, split="train", cache_dir=cache)
assert raw.features == Features.from_arrow_schema(CHAIN_SCHEMA)
print(json.dumps({
    **{name: rows.to_list() for name, rows in found.items()},
    "streamed": streamed,
    "chains": raw.to_list(),
}))
"""


def test_others_read_it(tmp_path: Path) -> None:
    run = config(tmp_path)
    short = numbered([91], steps=CHAIN.steps[2:], passages=CHAIN.passages[2:])
    chains = [*MIXED, *numbered([90], hops=None), *short]
    write(run.folder.chains, chains, per_file=4)
    select_run(run)
    rows = pq.read_table(run.folder.examples).to_pylist()

    frame = pd.read_parquet(run.folder.examples)
    assert list(frame["id"]) == [row["id"] for row in rows]
    assert list(frame["ability"].value_counts()) == [12, 11, 11]
    everything = pd.read_parquet(run.folder.chains)
    assert everything["rejected"].isna().sum() == 12

    home = tmp_path / "home"
    arguments = [str(run.folder.dataset), str(run.folder.chains), str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", READ, *arguments],
        env={**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert read["folder"] == read["parquet"] == read["streamed"] == rows
    assert {row["id"]: row["rejected"] for row in read["chains"]} == verdicts(run.folder.chains)


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


def test_on_a_cluster_it_is_the_same(ray_cluster: None, tmp_path: Path) -> None:
    alone, together = (
        config(tmp_path / "a", per_hops="equal"),
        config(tmp_path / "b", per_hops="equal"),
    )
    for run in (alone, together):
        write(run.folder.chains, MIXED, per_file=2)
    select_run(together)
    code = "import sys; from steper_ray.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["--config", str(run_file(alone.folder.root, "select: {per_hops: equal}"))]
    subprocess.run([sys.executable, "-c", code, "select", *options], cwd=ROOT, check=True)
    assert files(alone.folder.examples) == files(together.folder.examples)
    assert verdicts(alone.folder.chains) == verdicts(together.folder.chains)


def run_file(folder: Path, text: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "run.yaml"
    file.write_text(f"run: {{dir: '{folder}'}}\n{text}\n")
    return file


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
        (break_nothing, "select.min_f1=2", "select.min_f1: input should be less than or equal to 1"),
        (break_nothing, "select.per_hops=even", "per_hops: expected a number of chains above 0, `equal`"),
        (break_nothing, "select.max_steps=0", "select.max_steps: input should be greater than 0"),
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
    write(run.folder.chains, [*samples, replace(CHAIN, id="q2-0", question_id="q2", em=0.0)])
    selected = select_run(run)
    assert (selected.questions, selected.counts.chains, selected.counts.kept) == (2, 4, 2)
    assert selected.counts.rejected == {"wrong_answer": 1, "duplicate": 1}
    assert json.loads(run.folder.stats.read_text())["questions"] == {"all": 2, "kept": 1}
    first = select_run(config(tmp_path))
    assert first.counts.rejected == {"wrong_answer": 1, "not_chosen": 2}
    assert first.changes == {("duplicate", "not_chosen"): 1, (None, "not_chosen"): 1}
