"""The data set: the same however the chains lie, whole, and read by other tools."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from huggingface_hub import DatasetCard

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.chains.rows import read_chains
from steper_ray.errors import InputError
from steper_ray.pipeline.select import select_run
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.frameworks import ircot
from steper_ray.selection.choice import Judgement, select
from steper_ray.selection.examples import read_examples, step_examples
from steper_ray.selection.shards import CHAINS_PER_SHARD, plan_shards
from steper_ray.training.tokenization import stepwise_files
from tests.conftest import ROOT
from tests.samples import CHAIN, config, numbered, step, write

MIXED = [
    *numbered(range(6), hops=2),
    *numbered(range(6, 10), hops=3),
    *numbered([10], em=0.0, right=0.0),
    *numbered([11], error="too long", em=0.0, right=0.0, steps=()),
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


def test_chains_of_an_older_version_are_read(tmp_path: Path) -> None:
    run = config(tmp_path, min_support=1.0)
    write(run.folder.chains, MIXED[:2])
    (file,) = run.folder.chains.iterdir()
    pq.write_table(pq.read_table(file).drop("supporting_ids"), file)
    assert select_run(run).counts.kept == 2


def test_thoughts_are_a_column_of_their_own(tmp_path: Path) -> None:
    first, second, last = CHAIN.steps
    steps = (replace(first, thought="Let me\nsee."), second, replace(last, finish_reason="stop"))
    run = config(tmp_path)
    write(run.folder.chains, [replace(CHAIN, steps=steps)])
    assert select_run(run).counts.kept == 1
    (chain,) = read_chains(run.folder.chains)
    assert chain.steps == steps
    examples = read_examples(run.folder.examples)
    assert [example.thought for example in examples] == ["Let me\nsee.", None, None]
    assert [replace(example, thought=None) for example in examples] == step_examples(
        CHAIN, complete_reasoning(run.reasoning)
    )  # prompts and targets are those without


def test_a_data_set_of_an_older_version_is_read(tmp_path: Path) -> None:
    run = config(tmp_path)
    write(run.folder.chains, MIXED)
    select_run(run)
    (file,) = run.folder.examples.iterdir()
    before = read_examples(run.folder.examples)
    pq.write_table(pq.read_table(file).drop("thought"), file)
    assert stepwise_files(run.folder.examples) == [file]
    assert read_examples(run.folder.examples) == before


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
