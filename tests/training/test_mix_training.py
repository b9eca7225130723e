"""Training with `train.mix`: its gradient, and steps by DeepSpeed in this process; for several ranks see
test_ranks.py and test_train.py."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.objective import example_weights, with_mix
from steper_ray.training.packing import packed_length
from steper_ray.training.settings import MixConfig
from steper_ray.training.worker_spec import WorkerTask
from tests import plain_training as plain
from tests.training.conftest import toy_ids
from tests.training.one_rank import LR, SIGMA_LR, gather_and_save, learned, prepared, start

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ 'Question: ' + m['content'] + '\nStep 1:' }}"
    "{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}"
)
TURNS = ["Who is the mayor of Rome?", " Nobody.", "Where is Rome?", " In a town of the answer."]
TEXT = "Title: Rome\nText: Rome is a town."


@pytest.fixture
def chatting(task: WorkerTask, tmp_path: Path) -> WorkerTask:
    """The task, by a student with a chat template; two rows to mix in, a chat of four turns and a text."""
    model = tmp_path / "chatting"
    model.mkdir()
    for file in Path(task.train.model).iterdir():
        (model / file.name).symlink_to(file)
    (model / "chat_template.jinja").write_text(TEMPLATE)
    roles = ["user", "assistant", "user", "assistant"]
    chat = [{"role": r, "content": c} for r, c in zip(roles, TURNS, strict=True)]
    data = tmp_path / "mix.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ({"messages": chat}, {"text": TEXT})))
    # both rows in each step, which has all nine examples
    mix = MixConfig(data=str(data), ratio=2 / 9, weight=0.5)
    train = task.train.model_copy(update={"model": str(model), "mix": mix})
    reasoning = task.reasoning.model_copy(update={"chat": False})
    return replace(task, train=train, reasoning=reasoning)


def plain_mix(weight: float) -> plain.Mix:
    """The two rows, each piece split for itself."""
    tokenizer = make_tokenizer()

    def ids_of(text: str) -> list[int]:
        return list(tokenizer(text)["input_ids"])

    ids: list[int] = []
    at: list[int] = []
    for asked, answered in (TURNS[:2], TURNS[2:]):
        ids += ids_of(f"Question: {asked}\nStep 1:")
        said = [*ids_of(answered), tokenizer.eos_token_id]
        at += range(len(ids), len(ids) + len(said))
        ids += said
    text = [*ids_of(TEXT), tokenizer.eos_token_id]
    return plain.Mix([(ids, at), (text, list(range(1, len(text))))], weight)


def gradients(task: WorkerTask, ranks: int, packed: bool) -> tuple[list[Any], float]:
    """The gradients of a step's micro-batches of all ranks, added up, and mix_loss."""
    import torch

    from steper_ray.training.rank_data import RankData
    from steper_ray.training.student import load_student

    student = load_student(
        task.train.model, dtype=torch.float32, gradient_checkpointing=False, packed=packed
    )
    sums = [0.0, 0.0, 0.0, 0.0]
    for rank in range(ranks):
        data = RankData(task, rank=rank, ranks=ranks, packed=packed)
        batch = data.global_batch(0)
        assert batch.lengths == [packed_length(unit.tree) for unit in batch.units]
        assert batch.mix_rows == 2
        weight_E = example_weights(
            [example.ability for example in batch.examples], with_mix((0.25, 0.25, 0.5), 0.5)
        )
        for micro_batch, tensors, _ in data.micro_batches(batch, weight_E, torch.device("cpu")):
            loss, nll_E, _ = student(tensors)
            (loss / ranks).backward()
            examples = [e for unit in micro_batch.units for e in batch.units[unit].examples]
            for example, nll in zip(examples, nll_E.tolist(), strict=True):
                sums[example.ability] += nll * micro_batch.counted
    named = dict(student.model.named_parameters())
    return [named[name].grad for name in sorted(named)], sums[3] / 2


def test_the_gradient_is_that_of_plain_torch_however_the_step_is_cut(
    tmp_path, write_stepwise, chatting
):
    import torch
    from transformers import AutoModelForCausalLM

    examples = write_stepwise(tmp_path, [3, 2, 4])
    task, encode = prepared(chatting), toy_ids()
    model = AutoModelForCausalLM.from_pretrained(task.train.model, dtype=torch.float32)
    for example in examples:
        prompt, target = encode(example)
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        nll = torch.nn.functional.cross_entropy(logits, torch.tensor(target))
        weight = {"init": 0.25, "exp": 0.25, "agg": 0.5}[example.ability]
        (nll * weight / sum(other.ability == example.ability for other in examples)).backward()
    mix_loss = plain.add_mix(model, plain_mix(0.5))
    expected: list[Any] = [weight.grad for _, weight in sorted(model.named_parameters())]
    for ranks, packed, tokens in (
        (1, True, 10_000),
        (2, True, 300),
        (1, False, 300),
        (2, False, 50),
    ):
        train = task.train.model_copy(update={"micro_batch_tokens": tokens})
        found, loss = gradients(replace(task, train=train), ranks, packed)
        assert loss == pytest.approx(mix_loss, rel=1e-5)
        for gradient, plain_gradient in zip(found, expected, strict=True):
            off = (gradient - plain_gradient).norm() / plain_gradient.norm()
            assert off < 1e-4, (ranks, packed)


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize(
    ("zero_stage", "packing", "micro_batch_tokens"), [(3, True, 600), (1, False, 100)]
)
def test_it_trains_as_plain_torch_does(
    tmp_path, write_stepwise, chatting, plain_training, zero_stage, packing, micro_batch_tokens
):
    import torch
    from transformers import AutoModelForCausalLM

    examples = write_stepwise(tmp_path, [3, 2, 4])
    folder = Path(chatting.train.model)
    steps, expected = plain_training(
        folder, examples, 3, lr=LR, sigma_lr=SIGMA_LR, mix=plain_mix(0.5)
    )
    training = start(
        chatting, zero_stage=zero_stage, packing=packing, micro_batch_tokens=micro_batch_tokens
    )
    for step in steps:
        done = training.train_step()
        assert done.mix_loss == pytest.approx(step.mix_loss, rel=1e-5)
        assert done.loss == pytest.approx(step.loss, rel=1e-5)
        assert list(done.L.values()) == pytest.approx(step.loss_A, rel=1e-5)
        assert list(done.sigma.values()) == pytest.approx(step.sigma_A, rel=1e-5)
        assert done.grad_norm == pytest.approx(step.gradient_norm, rel=1e-4)
        assert done.examples == 9
        assert done.as_row()["mix_loss"] == done.mix_loss
    gather_and_save(training, tmp_path / "trained")
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "trained", dtype=torch.float32)
    moved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
    weights = expected.state_dict()
    for name, weight in found.state_dict().items():
        # in the norm: Adam makes much of the rounding of single gradients near zero
        whole = (weights[name] - moved[name]).norm()
        assert (weight - weights[name]).norm() < 1e-3 * whole, name


@pytest.mark.usefixtures("only_rank")
def test_validation_knows_nothing_of_it_and_a_checkpoint_goes_on_with_it(chatting, tmp_path):
    values: dict[str, Any] = {
        "chains_per_batch": 1,
        "validation_chains": 1,
        "validate_every_steps": 1,
    }
    values |= {"abilities": ("init", "agg")}
    first = start(chatting, **values)
    first.train_step()
    validated = first.validate()
    batch = first.data.validation_batch()
    assert batch.mix_rows == 0
    assert {example.chain_id for example in batch.examples} != {"mix"}
    found = [loss for loss in validated.validation.values() if loss is not None]
    assert validated.validation_loss == pytest.approx(sum(found) / len(found))
    saved = tmp_path / "saved"
    saved.mkdir()
    first.save(saved)
    expected = learned(first.train_step())
    again = learned(start(chatting, saved, **values).train_step())
    assert again.keys() == expected.keys()
    for name, value in expected.items():
        assert again[name] == (value if value is None else pytest.approx(value, rel=1e-5)), name
