"""Rows of `train.mix`: which are read, which of their tokens are learned, and which each step takes."""

import json
from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.errors import InputError
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.batches import epoch_batches
from steper_ray.training.mix import MixExample, MixRow, MixTokenizer, read_mix
from steper_ray.training.mix_data import MixData, MixOrder, prepare_mix
from steper_ray.training.settings import MixConfig
from steper_ray.training.worker_spec import WorkerTask
from tests.tokenizer_families import CHATML, family
from tests.training.one_rank import prepared

DAY = date(2024, 7, 26)

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi there"},
    {"role": "assistant", "content": "Hello you."},
    {"role": "user", "content": "What is 2?"},
    {"role": "assistant", "content": "It is two.\nYes"},
]
WHOLE = (
    "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi there<|im_end|>\n"
    "<|im_start|>assistant\nHello you.<|im_end|>\n<|im_start|>user\nWhat is 2?<|im_end|>\n"
    "<|im_start|>assistant\nIt is two.\nYes<|im_end|>\n"
)

MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{% else %}{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
)
"""Writes WHOLE, and says what the assistant writes of it."""

THINKING = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{{ message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As Qwen3's: only the last turn shows a thought."""


def chat_tokenizer(template: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=family("qwen2.5").backend_tokenizer, eos_token="<|im_end|>"
    )
    tokenizer.chat_template = template
    return tokenizer


def encoded(tokenizer: Any, content: Any, longest: int = 1000) -> MixExample | str:
    return MixTokenizer(tokenizer, DAY, longest).encode(MixRow(7, content))


def learned(tokenizer: Any, content: Any, longest: int = 1000) -> tuple[str, list[str]]:
    """The row as text, and the pieces of it that are learned."""
    example = encoded(tokenizer, content, longest)
    assert isinstance(example, MixExample), example
    spans = zip(example.spans[::2], example.spans[1::2], strict=True)
    pieces = [tokenizer.decode(example.ids[start:end]) for start, end in spans]
    assert example.learned == sum(len(tokenizer(piece)["input_ids"]) for piece in pieces)
    return tokenizer.decode(example.ids), pieces


@pytest.mark.parametrize("template", [CHATML, MARKED])
def test_what_the_assistant_says_is_learned_with_the_mark_that_ends_it(template: str) -> None:
    said = ["Hello you.<|im_end|>", "It is two.\nYes<|im_end|>"]
    assert learned(chat_tokenizer(template), CHAT) == (WHOLE, said)


def test_a_template_that_changes_earlier_turns_teaches_the_last_one() -> None:
    whole = WHOLE.replace("It is two", "<think>\n\n</think>\n\nIt is two")
    said = ["<think>\n\n</think>\n\nIt is two.\nYes<|im_end|>"]
    assert learned(chat_tokenizer(THINKING), CHAT) == (whole, said)


def test_chats_that_cannot_be_used_say_why() -> None:
    backwards = "{% for m in messages|reverse %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    found = encoded(chat_tokenizer(backwards), CHAT)
    assert found == "changed by the chat template as the chat goes on"
    refusing = "{{ raise_exception('no system turns') }}"
    assert encoded(chat_tokenizer(refusing), CHAT) == "refused by the chat template"
    found = encoded(chat_tokenizer(CHATML), CHAT, longest=5)
    assert found == "nothing to learn in the first 5 tokens"
    with pytest.raises(InputError, match=r"row 7 is a chat, but the student has no chat template"):
        encoded(make_tokenizer(), CHAT)


def test_long_rows_are_cut() -> None:
    tokenizer = chat_tokenizer(CHATML)
    first = WHOLE.index("you.") + len("you.")
    tokens = len(tokenizer(WHOLE[:first])["input_ids"])
    whole, said = learned(tokenizer, CHAT, longest=tokens)
    assert (whole, said) == (WHOLE[:first], ["Hello you."])
    example = encoded(tokenizer, CHAT, longest=tokens)
    assert isinstance(example, MixExample)
    assert example.cut


@pytest.mark.parametrize(
    ("name", "first", "end"),
    [("qwen2.5", "", "<|im_end|>"), ("llama3", "<|begin_of_text|>", "<|eot_id|>")],
)
def test_a_text_is_learned_whole_but_for_its_first_token(name: str, first: str, end: str) -> None:
    tokenizer = family(name)
    example = encoded(tokenizer, "Rome is old.")
    assert isinstance(example, MixExample)
    assert tokenizer.decode(example.ids) == f"{first}Rome is old.{end}"
    assert example.spans == (1, len(example.ids))


def write_lines(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


ASKED = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
ANSWERED = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


def test_chats_and_texts_are_found_under_their_usual_names(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"messages": ANSWERED},
        {"conversations": ASKED, "text": "not this"},
        {"text": "Rome is old."},
        {"messages": None, "text": "as datasets fill a row up"},
        {"messages": json.dumps(ANSWERED)},
        {"messages": [*ANSWERED, {"role": "user", "content": "and nobody answers"}]},
        {"text": "  "},
        {"messages": ANSWERED[:1]},
        {"messages": [{"role": "assistant", "content": None}]},
        {"messages": [1]},
        {"other": "x"},
    ]
    found = read_mix(MixConfig(data=write_lines(tmp_path / "a.jsonl", rows)))
    assert [row.content for row in found.rows] == [
        ANSWERED,
        ANSWERED,
        "Rome is old.",
        "as datasets fill a row up",
        ANSWERED,
        ANSWERED,
    ]
    assert [row.number for row in found.rows] == [1, 2, 3, 4, 5, 6]
    assert found.read == 11
    assert found.skipped == {
        "without messages or conversations or text": 2,
        "without a turn of the assistant": 1,
        "with a turn without role or text": 1,
        "neither a list of turns nor text": 1,
    }


def test_parquet_a_folder_and_a_data_set_of_the_hub_are_the_same_rows(tmp_path: Path) -> None:
    import datasets

    rows = [{"id": number, "body": {"said": f"Rome {number}"}} for number in range(5)]
    folder = tmp_path / "rows"
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:2]), folder / "a.parquet")
    write_lines(folder / "b.jsonl", rows[2:])
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    several = (str(folder / "a.parquet"), str(folder / "b.jsonl"))
    found = [
        read_mix(MixConfig(data=data, column="body.said"))
        for data in (str(folder), several, f"hf:{tmp_path / 'saved'}")
    ]
    assert [row.content for row in found[0].rows] == [f"Rome {number}" for number in range(5)]
    assert len({one.digest for one in found}) == 1
    other = read_mix(MixConfig(data=str(folder / "a.parquet"), column="body.said"))
    assert other.digest != found[0].digest


def test_more_rows_than_are_wanted_are_drawn_with_equal_chances(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "a.jsonl", [{"text": f"{n}"} for n in range(1000)])
    found = read_mix(MixConfig(data=data, max_rows=300))
    numbers = [row.number for row in found.rows]
    assert len(set(numbers)) == 300
    assert numbers == sorted(numbers)
    assert [row.content for row in found.rows] == [f"{number - 1}" for number in numbers]
    # 30 a tenth are expected; a standard deviation is 4.3
    tenths = Counter((number - 1) // 100 for number in numbers)
    assert all(12 < tenths[tenth] < 48 for tenth in range(10))
    assert found.digest == read_mix(MixConfig(data=data, max_rows=300)).digest


def test_data_without_a_row_to_use_is_refused(tmp_path: Path) -> None:
    data = write_lines(tmp_path / "a.jsonl", [{"prompt": "Hi", "answer": "Hello"}])
    for column, name in ((None, "messages or conversations or text"), ("reply", "reply")):
        with pytest.raises(InputError) as caught:
            read_mix(MixConfig(data=data, column=column))
        assert str(caught.value) == (
            f"train.mix.data: {data}: none of 1 rows is a chat or a text (1 without {name}); there are "
            "columns answer, prompt: name one in train.mix.column"
        )
    with pytest.raises(InputError, match=r"train.mix.data: /nowhere: no such file"):
        read_mix(MixConfig(data="/nowhere"))


def test_each_step_takes_its_share_and_every_row_once_before_any_comes_again() -> None:
    examples_C = [3, 1, 4, 2, 5, 2, 3]
    given: dict[str, Any] = {"ratio": 0.5, "chains_per_batch": 2, "epochs": 3, "seed": 4}
    order = MixOrder(8, examples_C, **given)
    batches = [batch for epoch in range(3) for batch in epoch_batches(7, 2, seed=4, epoch=epoch)]
    taken = [order.of_step(step) for step in range(len(batches))]
    for rows, batch in zip(taken, batches, strict=True):
        assert len(rows) == round(sum(examples_C[chain] for chain in batch) / 2)
    together = [row for rows in taken for row in rows]
    assert len(together) > 24
    for start in (0, 8, 16):
        assert sorted(together[start : start + 8]) == list(range(8))
    assert together[:8] != together[8:16]
    # asked in any order, as a training that goes on does
    assert MixOrder(8, examples_C, **given).of_step(5) == taken[5]
    rare = MixOrder(8, examples_C, **{**given, "ratio": 0.001})
    assert [len(rare.of_step(step)) for step in range(len(batches))] == [1] * len(batches)


def with_mix(task: WorkerTask, data: str, **values: Any) -> WorkerTask:
    mix = MixConfig(data=data, **values)
    return prepared(replace(task, train=task.train.model_copy(update={"mix": mix})))


def test_rows_on_disk_are_made_once_and_what_became_of_them_is_said(
    task: WorkerTask, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["Rome is old. " * 500, "Rome is old.", " ", "It is a town."]
    data = write_lines(tmp_path / "a.jsonl", [{"text": text} for text in texts])
    made = with_mix(task, data)
    longest = 1024  # what the student was made for, less than a prompt and a step may have
    assert task.reasoning.max_prompt_tokens + task.reasoning.max_step_tokens == 1128
    tokenizer = make_tokenizer()
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    stored = MixData(Path(made.prepared_mix))
    assert len(stored) == 3
    for row, (number, expected) in enumerate(((1, ids[0][:longest]), (2, ids[1]), (4, ids[3]))):
        unit = stored.unit(row, ability=3)
        (example,) = unit.examples
        assert (example.chain_id, example.step, example.ability) == ("mix", number, 3)
        assert example.ids.tolist() == expected
        assert example.target_at.tolist() == list(range(1, len(expected)))
        assert example.target_tokens == len(expected) - 1
        assert unit.tree[0].runs == ((0, len(expected)),)
    learned = longest - 1 + len(ids[1]) - 1 + len(ids[3]) - 1
    assert capsys.readouterr().out == (
        f"  train  mix: 3 of 4 rows, {learned:,} tokens to learn; 1 cut at {longest:,} tokens; skipped 1 "
        "without messages or conversations or text\n"
    )
    stamp = (Path(made.prepared_mix) / "about.json").stat().st_mtime_ns
    again = with_mix(task, data, ratio=0.7, weight=3.0)
    assert again.prepared_mix == made.prepared_mix
    assert (Path(made.prepared_mix) / "about.json").stat().st_mtime_ns == stamp
    fewer = with_mix(task, data, max_rows=2)
    assert fewer.prepared_mix != made.prepared_mix
    assert "; 1 more than train.mix.max_rows\n" in capsys.readouterr().out
    assert made.prepared == again.prepared == fewer.prepared
    assert np.diff(stored.unit(0, 3).examples[0].spans).sum() == longest - 1


def test_rows_of_which_nothing_is_learned_are_refused(task: WorkerTask, tmp_path: Path) -> None:
    data = write_lines(tmp_path / "a.jsonl", [{"messages": ANSWERED}])
    with pytest.raises(InputError, match=r"row 1 is a chat, but the student has no chat template"):
        with_mix(task, data)
    tokenizer = make_tokenizer()
    tokenizer.chat_template = "{{ raise_exception('not today') }}"
    folder = Path(task.train.model)
    other = tmp_path / "other"
    other.mkdir()
    tokenizer.save_pretrained(other)
    for file in folder.iterdir():
        if not (other / file.name).exists():
            (other / file.name).symlink_to(file)
    reasoning = task.reasoning.model_copy(update={"chat": False})
    train = task.train.model_copy(update={"model": str(other), "mix": MixConfig(data=data)})
    changed = replace(task, train=train, reasoning=reasoning, mix="x")
    with pytest.raises(InputError, match=r"none of 1 rows can be used: 1 refused by the chat temp"):
        prepare_mix(changed, tmp_path / "prepared")
