"""Training data on disk: the same as in memory, however the examples lie, and made once."""

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.errors import InputError
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training import preparation
from steper_ray.training.packing import prefix_tree
from steper_ray.training.preparation import plan_blocks, prepare
from steper_ray.training.tokenization import TokenExample, stepwise_files
from steper_ray.training.training_data import TrainingData, check_examples
from steper_ray.training.worker_spec import WorkerTask
from tests.tokenized import tokenize_examples
from tests.training.one_rank import prepared

HOPS = [3, 1, 4, 2, 3, 2, 4]


@pytest.fixture
def written(tmp_path: Path, write_stepwise, task: WorkerTask) -> WorkerTask:
    write_stepwise(tmp_path, HOPS)
    return task


def opened(task: WorkerTask) -> TrainingData:
    return TrainingData(Path(prepared(task).prepared))


def stored(data: TrainingData) -> list[TokenExample]:
    return [data.example(index) for chain in data.chains for index in chain]


def by_step(data: TrainingData) -> list[TokenExample]:
    """The examples, which lie depth first, by chain and step."""
    return sorted(stored(data), key=lambda example: (example.chain_id, example.step))


def in_memory(task: WorkerTask, **choice):
    files = [Path(file) for file in task.stepwise_files]
    return tokenize_examples(files, make_tokenizer(), reasoning=task.reasoning, **choice)


def test_what_lies_on_disk_is_what_is_made_in_memory(written: WorkerTask) -> None:
    data, expected = opened(written), in_memory(written)
    assert [len(chain) for chain in data.chains] == HOPS
    for found, example in zip(by_step(data), expected.examples, strict=True):
        assert found.ids.tolist() == example.ids.tolist()
        assert replace(found, ids=example.ids) == example
        assert not found.ids.flags.owndata
    for chain in data.chains:
        (unit,) = data.units(chain, packed=True)
        assert unit.tree == prefix_tree([example.ids for example in unit.examples])
        assert data.unit_lengths([chain], packed=True)[0] == sum(b.runs[-1][1] for b in unit.tree)
        separate = data.units(chain, packed=False)
        assert [unit.tree[0].runs for unit in separate] == [
            ((0, len(unit.examples[0].ids)),) for unit in separate
        ]
    assert data.abilities == ("init", "exp", "agg")
    assert data.about["examples"] == {"init": 6, "exp": 6, "agg": 7}
    assert data.about["tokens"] == sum(len(example.ids) for example in expected.examples)
    assert data.about["packed_tokens"] == sum(data.unit_lengths(data.chains, packed=True))


@pytest.mark.parametrize("chains", [1, 2, 3, 7, 8])
def test_it_is_the_same_in_blocks_of_any_size_and_files_in_any_order(
    written: WorkerTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chains: int
) -> None:
    whole = [example.ids.tolist() for example in stored(opened(written))]
    files = [Path(file) for file in written.stepwise_files]
    rows = pa.concat_tables([pq.read_table(file) for file in files])
    order = list(range(len(rows)))
    random.Random(chains).shuffle(order)
    third = len(order) // 3
    for number, part in enumerate((order[:third], order[third:])):
        pq.write_table(rows.take(part), files[number], row_group_size=4)
    monkeypatch.setattr(preparation, "CHAINS_PER_BLOCK", chains)
    blocks = plan_blocks(files)
    assert len(blocks) == -(-len(HOPS) // chains)
    assert sum(len(rows) for block in blocks for rows in block.rows.values()) == sum(HOPS)
    folder = prepare(prepared(written), tmp_path / "other")
    data = TrainingData(folder)
    assert [example.ids.tolist() for example in stored(data)] == whole
    assert [len(chain) for chain in data.chains] == HOPS
    assert len(list(folder.glob("part-*.arrow"))) == len(blocks)


def test_whole_paths_are_made_of_blocks_too(
    written: WorkerTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "CHAINS_PER_BLOCK", 2)
    train = written.train.model_copy(update={"objective": "vanilla-kd"})
    data = opened(replace(written, train=train))
    expected = in_memory(written, whole_path=True)
    assert [example.ids.tolist() for example in stored(data)] == [
        example.ids.tolist() for example in expected.examples
    ]
    assert [len(chain) for chain in data.chains] == [1] * len(HOPS)
    assert data.about["examples"] == {"agg": len(HOPS)}


def test_it_is_made_once_for_the_same_examples_and_anew_for_others(
    written: WorkerTask, write_stepwise, tmp_path: Path
) -> None:
    first = Path(prepared(written).prepared)
    stamp = (first / "about.json").stat().st_mtime_ns
    longer = written.train.model_copy(update={"lr": 0.5, "epochs": 9, "objective": "uniform"})
    assert Path(prepared(replace(written, train=longer)).prepared) == first
    assert (first / "about.json").stat().st_mtime_ns == stamp
    fewer = written.train.model_copy(update={"abilities": ("init", "agg")})
    second = Path(prepared(replace(written, train=fewer)).prepared)
    assert second != first
    assert first.is_dir()
    shorter = written.reasoning.model_copy(update={"max_prompt_tokens": 60})
    third = Path(prepared(replace(written, reasoning=shorter)).prepared)
    assert TrainingData(third).dropped_passages > 0
    write_stepwise(tmp_path, [2, 2])
    fourth = Path(prepared(replace(written, train=fewer)).prepared)
    assert {path.name for path in first.parent.iterdir()} == {fourth.name}


def test_nothing_half_made_is_used(
    written: WorkerTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparation, "CHAINS_PER_BLOCK", 3)

    def stop(done: int, blocks: int) -> None:
        assert blocks == 3
        if done == 2:
            raise KeyboardInterrupt

    task = prepared(written)
    with pytest.raises(KeyboardInterrupt):
        prepare(task, tmp_path / "half", stop)
    assert not list((tmp_path / "half").glob("*/about.json"))
    data = TrainingData(prepare(task, tmp_path / "half"))
    assert len(data.length_E) == sum(HOPS)
    assert len(list((tmp_path / "half").iterdir())) == 1


def test_what_the_model_cannot_take_is_refused(tmp_path, write_stepwise, task) -> None:
    write_stepwise(tmp_path, [3])
    data = opened(task)
    longest = int(np.max(data.length_E))
    check_examples(data.about, vocabulary=100_000, positions=longest)
    with pytest.raises(InputError, match=f"chain c0000, step 3 has {longest} tokens"):
        check_examples(data.about, vocabulary=100_000, positions=longest - 1)
    with pytest.raises(InputError, match="the model knows only 300"):
        check_examples(data.about, vocabulary=300, positions=longest)


def test_an_ability_without_an_example_is_refused_and_nothing_is_left(
    tmp_path, write_stepwise, task
) -> None:
    write_stepwise(tmp_path, [2, 2])
    with pytest.raises(InputError, match="no example of ability 'exp'"):
        prepared(task)
    assert not list((tmp_path / "prepared").glob("*/about.json"))


@pytest.mark.usefixtures("ray_cluster")
def test_blocks_are_prepared_on_the_cluster_alike(
    written: WorkerTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = [example.ids.tolist() for example in stored(opened(written))]
    monkeypatch.setattr(preparation, "CHAINS_PER_BLOCK", 2)
    told: list[tuple[int, int]] = []
    folder = prepare(prepared(written), tmp_path / "there", lambda *done: told.append(done))
    assert told == [(n, 4) for n in range(1, 5)]
    assert [example.ids.tolist() for example in stored(TrainingData(folder))] == here
    about = json.loads((folder / "about.json").read_text())
    rows = [
        {**row, "ability": "middle"} for row in pq.read_table(written.stepwise_files[0]).to_pylist()
    ]
    pq.write_table(pa.Table.from_pylist(rows), written.stepwise_files[0])
    assert about["chains"] == len(HOPS)
    with pytest.raises(InputError, match="'middle'"):
        prepared(written)
    assert stepwise_files(Path(written.stepwise_files[0]).parent)
