import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.errors import InputError
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.toy.asking import REASONING, render_prompt
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.batches import cut_micro_batches, epoch_batches, hold_out, steps_per_epoch
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.training_data import TrainingData
from steper_ray.training.worker_spec import WorkerTask
from tests.tokenized import tokenize_examples
from tests.training.one_rank import prepared


def tokenize(folder: Path, max_prompt_tokens: int = 1000, **choice):
    return tokenize_examples(
        stepwise_files(folder),
        make_tokenizer(),
        reasoning=ReasoningConfig(**REASONING, max_prompt_tokens=max_prompt_tokens),
        **choice,
    )


def test_examples_are_prompt_then_target(tmp_path, write_stepwise):
    written = write_stepwise(tmp_path, [3, 1, 4])
    data = tokenize(tmp_path / "stepwise")
    tokenizer = make_tokenizer()
    assert len(data.examples) == len(written) == 8
    for example, source in zip(data.examples, written, strict=True):
        assert tokenizer.decode(example.ids) == source.prompt + source.target
        assert tokenizer.decode(example.ids[-example.target_tokens :]) == source.target
    assert [example.ability for example in data.examples] == [0, 1, 2, 2, 0, 1, 1, 2]
    assert data.chains == [[0, 1, 2], [3], [4, 5, 6, 7]]
    assert data.dropped_passages == 0


def on_disk(task: WorkerTask) -> TrainingData:
    return TrainingData(Path(prepared(task).prepared))


def test_held_out_chains_depend_on_their_questions_alone(
    task: WorkerTask, tmp_path: Path, write_stepwise
) -> None:
    write_stepwise(tmp_path, [3, 4, 3, 2, 3, 4, 3, 3])
    data = on_disk(task)
    train, held_out = hold_out(data, 3)
    assert len(held_out) == 3
    assert [c for c in data.chains if c in held_out or c in train] == data.chains

    def ids(chains: list[range]) -> set[str]:
        return {data.example(chain[0]).chain_id for chain in chains}

    assert not ids(train) & ids(held_out)
    assert ids(hold_out(data, 2)[1]) < ids(held_out)
    assert hold_out(data, 0) == (data.chains, [])


def test_the_chains_of_a_question_are_all_held_out_or_none(
    task: WorkerTask, tmp_path: Path, write_stepwise
) -> None:
    write_stepwise(tmp_path, [3] * 8)
    for file in map(Path, task.stepwise_files):
        rows = pq.read_table(file).to_pylist()
        for row in rows:
            if row["chain_id"] in ("c0000", "c0002", "c0004", "c0006"):
                row["question"] = "the same"
        pq.write_table(pa.Table.from_pylist(rows, STEP_EXAMPLE_SCHEMA), file)
    data = on_disk(task)
    for count in range(1, 4):
        train, held_out = hold_out(data, count)
        sides = [{data.question(chain[0]) for chain in part} for part in (train, held_out)]
        assert not sides[0] & sides[1]
        assert count <= len(held_out) <= count + 3


def test_a_held_out_part_that_cannot_serve_is_refused(
    task: WorkerTask, tmp_path: Path, write_stepwise
) -> None:
    write_stepwise(tmp_path, [2, 2, 3])
    data = on_disk(task)
    with pytest.raises(InputError, match="3 of 3 chains leave none to train on"):
        hold_out(data, 3)
    with pytest.raises(InputError, match=r"no example of ability 'exp' is (held out|left)"):
        hold_out(data, 1)


def test_too_long_a_prompt_loses_its_oldest_passages(tmp_path, write_stepwise):
    source = write_stepwise(tmp_path, [4])[-1]
    whole = tokenize(tmp_path / "stepwise")
    tokens = [len(example.ids) - example.target_tokens for example in whole.examples]
    data = tokenize(tmp_path / "stepwise", max(tokens) - 1)
    assert data.dropped_passages == 1
    text = make_tokenizer().decode(data.examples[-1].ids)
    assert source.passages[0].text not in text
    assert all(passage.text in text for passage in source.passages[1:])
    assert isinstance(text, str)
    assert text.endswith(source.target)


def test_a_whole_path_is_one_example_a_chain_and_begins_like_its_first_step(
    tmp_path, write_stepwise
):
    written = write_stepwise(tmp_path, [3, 1])
    data = tokenize(tmp_path / "stepwise", whole_path=True)
    first, second = (make_tokenizer().decode(example.ids) for example in data.examples)
    r_1, r_2, r_3 = (example.target.strip() for example in written[:3])
    assert first == (
        render_prompt(written[2].question, written[2].passages)
        + f" {r_1}\nStep 2: {r_2}\nStep 3: {r_3}\n"
    )
    assert second == written[3].prompt + written[3].target
    assert data.chains == [[0], [1]]


def test_a_whole_path_needs_the_last_step_and_counts_as_the_last_ability(tmp_path, write_stepwise):
    def halves(step: int, steps: int) -> str:
        return "late" if 2 * step > steps else "early"

    scheme = AbilityScheme("halves", ("early", "late"), halves)
    write_stepwise(tmp_path, [3, 4], scheme)
    data = tokenize(tmp_path / "stepwise", whole_path=True, scheme=scheme)
    assert [(e.chain_id, e.step, e.ability) for e in data.examples] == [
        ("c0000", 3, 1),
        ("c0001", 4, 1),
    ]
    assert data.abilities == ("early", "late")
    write_stepwise(tmp_path, [3, 3])
    file = tmp_path / "stepwise" / "b.parquet"
    pq.write_table(pq.read_table(file).slice(0, 2), file)  # the second chain's last step is gone
    data = tokenize(tmp_path / "stepwise", whole_path=True)
    assert [(e.chain_id, e.step) for e in data.examples] == [("c0000", 3)]


def test_only_the_chosen_abilities_are_read(tmp_path, write_stepwise):
    write_stepwise(tmp_path, [3, 1, 4])
    data = tokenize(tmp_path / "stepwise", abilities=("init", "exp"))
    assert sorted(example.ability for example in data.examples) == [0, 0, 1, 1, 1]
    write_stepwise(tmp_path, [2, 2])
    assert [e.ability for e in tokenize(tmp_path / "stepwise", abilities=("init",)).examples] == [
        0,
        0,
    ]
    with pytest.raises(InputError, match="no example of ability 'exp'"):
        tokenize(tmp_path / "stepwise")


def test_a_missing_column_names_the_file_and_the_column(tmp_path):
    schema = STEP_EXAMPLE_SCHEMA.remove(STEP_EXAMPLE_SCHEMA.get_field_index("forced"))
    file = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([], schema), file)
    with pytest.raises(InputError, match=f"{file}: no column 'forced'"):
        stepwise_files(tmp_path)


def test_no_file_and_no_row_are_refused(tmp_path):
    with pytest.raises(InputError, match="no Parquet files"):
        stepwise_files(tmp_path)
    pq.write_table(pa.Table.from_pylist([], STEP_EXAMPLE_SCHEMA), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no rows"):
        stepwise_files(tmp_path)


def test_an_unknown_stage_is_refused(tmp_path, write_stepwise):
    write_stepwise(tmp_path, [2])
    file = tmp_path / "stepwise" / "a.parquet"
    rows = [{**row, "ability": "middle"} for row in pq.read_table(file).to_pylist()]
    pq.write_table(pa.Table.from_pylist(rows, STEP_EXAMPLE_SCHEMA), file)
    with pytest.raises(InputError, match="'middle'"):
        tokenize(tmp_path / "stepwise")


@given(
    chains=st.integers(1, 50),
    chains_per_batch=st.integers(1, 10),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
def test_an_epoch_has_every_chain_once(chains, chains_per_batch, seed, epoch):
    batches = epoch_batches(chains, chains_per_batch, seed=seed, epoch=epoch)
    assert len(batches) == steps_per_epoch(chains, chains_per_batch)
    assert sorted(chain for batch in batches for chain in batch) == list(range(chains))
    assert all(len(batch) == chains_per_batch for batch in batches[:-1])
    last = len(batches[-1])
    assert 2 * last < 3 * chains_per_batch
    assert 2 * last >= chains_per_batch or len(batches) == 1


def test_the_order_follows_seed_and_epoch():
    orders = {
        tuple(epoch_batches(50, 50, seed=seed, epoch=epoch)[0])
        for seed in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 4
    assert tuple(epoch_batches(50, 50, seed=1, epoch=0)[0]) in orders


@given(
    lengths=st.lists(st.integers(2, 400), min_size=1, max_size=60),
    limit=st.integers(1, 2000),
    ranks=st.integers(1, 5),
    padded=st.booleans(),
)
def test_every_unit_counts_once_and_every_rank_has_as_many_micro_batches(
    lengths, limit, ranks, padded
):
    dealt = cut_micro_batches(lengths, limit, ranks, padded=padded)
    assert len(dealt) == ranks
    assert len({len(micro_batches) for micro_batches in dealt}) == 1
    counted = [i for rank in dealt for batch in rank if batch.counted for i in batch.units]
    assert sorted(counted) == list(range(len(lengths)))
    for batch in (batch for rank in dealt for batch in rank):
        assert batch.units
        chosen = [lengths[i] for i in batch.units]
        size = len(chosen) * max(chosen) if padded else sum(chosen)
        assert size <= limit or len(chosen) == 1


def test_work_is_shared_evenly():
    # A limit of 1,000 holds ten of these; two ranks share the twelve as six and six.
    dealt = cut_micro_batches([100] * 12, 1000, 2, padded=True)
    assert [len(rank[0].units) for rank in dealt] == [6, 6]


def test_padding_of_separate_examples_stays_under_a_twentieth():
    """Steps as in the paper: 4 passages of some 100 tokens a step, up to 5 steps, 32 chains a batch."""
    rng = random.Random(0)
    lengths = [
        sum(rng.randint(80, 120) for _ in range(4 * step)) + 60
        for _ in range(32)
        for step in range(1, rng.randint(2, 5) + 1)
    ]
    dealt = cut_micro_batches(lengths, 16384, 2, padded=True)
    batches = [batch.units for batches in dealt for batch in batches if batch.counted]
    computed = sum(len(units) * max(lengths[i] for i in units) for units in batches)
    assert sum(lengths) <= computed
    assert 1 - sum(lengths) / computed < 0.05
