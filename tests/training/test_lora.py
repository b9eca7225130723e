"""Adapters: trained, kept in checkpoints without the frozen weights, merged and written apart."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from steper_ray.errors import AllRanksError, InputError
from steper_ray.models.folder import model_identity, model_size
from steper_ray.run.dependencies import pick
from steper_ray.run.identity import differences, record
from steper_ray.run.keys import LEARNING_KEYS
from steper_ray.sweep.space import applied
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.lora import check_lora
from steper_ray.training.settings import LoraConfig, TrainConfig
from steper_ray.training.worker_spec import candidate_dir
from tests.training.one_rank import keep_4_bits_as_stored, learned, start

LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.1)


def size_of(folder: Path) -> int:
    """Bytes of the tensors in a checkpoint: not of the scripts that DeepSpeed lays beside them."""
    return sum(file.stat().st_size for file in folder.rglob("*.pt"))


@pytest.mark.engine
@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("zero_stage", [0, 1, 3])
def test_a_checkpoint_has_the_adapters_and_nothing_else(tmp_path, task, zero_stage):
    lora = LoraConfig(rank=1, dropout=0.1, target_modules=("q_proj",))
    values = {"lora": lora, "zero_stage": zero_stage, "gradient_checkpointing": "selective"}
    training = start(task, **values)
    training.train_step()
    training.save(tmp_path / "checkpoint")
    without_break = [learned(training.train_step()) for _ in range(2)]
    parameters = training.engine.module.model.named_parameters()
    sizes = {name: getattr(weight, "ds_numel", weight.numel()) for name, weight in parameters}
    trained = sum(size for name, size in sizes.items() if ".lora_" in name)
    base = sum(sizes.values()) - trained
    assert trained < base / 300
    again = start(task, tmp_path / "checkpoint", **values)
    assert [learned(again.train_step()) for _ in range(2)] == without_break
    # weight, master and two moments of what is trained; names, settings and random states
    assert size_of(tmp_path / "checkpoint") < 16 * trained + 60_000
    assert size_of(tmp_path / "checkpoint") / base < 0.3


@pytest.mark.engine
@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("zero_stage", [1, 3])
def test_adapters_alone_are_trained_and_exported_merged_and_apart(tmp_path, task, zero_stage):
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    from steper_ray.training.student import gather_weights

    training = start(task, lora=LORA, zero_stage=zero_stage, gradient_checkpointing="full")
    before = gather_weights(training.engine.module.model, keep=True)
    losses = [training.train_step().loss for _ in range(3)]
    assert losses[-1] < losses[0]
    weights = gather_weights(training.engine.module.model, keep=True)
    moved = {name for name in weights if not torch.equal(weights[name], before[name])}
    assert moved
    assert all(".lora_" in name for name in moved)

    training.export()
    (candidate,) = (tmp_path / "training" / "candidates").iterdir()
    student = AutoModelForCausalLM.from_pretrained(candidate, dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(task.train.model, dtype=torch.float32)
    ids = torch.arange(5, 45)[None]
    plain = base(ids).logits
    adapted = peft.PeftModel.from_pretrained(base, candidate / "adapter")
    settings = json.loads((candidate / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == Path(task.train.model).name
    with torch.no_grad():
        merged = student(ids).logits
        torch.testing.assert_close(adapted(ids).logits, merged, atol=1e-5, rtol=1e-5)
    assert (merged - plain).abs().max() > 1e-3
    # peft's own merge is the reference.
    expected = adapted.merge_and_unload().state_dict()
    found = student.state_dict()
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-7, rtol=1e-6)

    what = model_identity(str(candidate)), model_size(str(candidate))
    shutil.rmtree(candidate / "adapter")
    assert (model_identity(str(candidate)), model_size(str(candidate))) == what


def test_a_merged_matrix_keeps_its_type_and_precision():
    """2 · B·A / 1 by hand, added to a matrix of bf16 numbers."""
    import torch

    from steper_ray.training.lora import ADAPTER, Adapter, merge_adapters

    first, second = torch.tensor([[1.0, 2.0]]), torch.tensor([[0.5], [0.25], [0.0]])
    names = {"l.lora_A": first, "l.lora_B": second}
    weights = {f"{name}.{ADAPTER}.weight": weight for name, weight in names.items()}
    base = {"l.weight": torch.ones(3, 2, dtype=torch.bfloat16), "n.weight": torch.ones(2)}
    for fan_in_fan_out in (False, True):
        config = LoraSettings(lora_alpha=2.0, r=1, fan_in_fan_out=fan_in_fan_out)
        own = {**base, "l.weight": base["l.weight"].T} if fan_in_fan_out else dict(base)
        merged = merge_adapters(own, Adapter(config, weights, "base", None))
        found = merged["l.weight"].T if fan_in_fan_out else merged["l.weight"]
        assert found.tolist() == [[2.0, 3.0], [1.5, 2.0], [1.0, 1.0]]
        assert found.dtype is torch.bfloat16
        assert merged["n.weight"] is base["n.weight"]


@dataclass(frozen=True)
class LoraSettings:
    """What merging reads of peft's settings."""

    lora_alpha: float
    r: int
    fan_in_fan_out: bool


def test_adapters_learn_faster_unless_a_rate_is_set():
    assert TrainConfig().with_lr().lr == 5e-6
    assert TrainConfig(lora=LoraConfig()).with_lr().lr == 2e-4
    assert TrainConfig(lora=LoraConfig(), lr=1e-5).with_lr().lr == 1e-5
    assert applied(TrainConfig(), {"lora.rank": 8}).peak_lr == 2e-4
    assert applied(TrainConfig(lr=1e-5), {"lora.rank": 8}).peak_lr == 1e-5


def test_records_of_before_have_the_same_adapters():
    now = pick(TrainConfig(lora=LoraConfig(), lr=5e-6).with_lr(), LEARNING_KEYS)
    before = {**now, "lora": {key: now["lora"][key] for key in now["lora"] if key != "quantize"}}
    for kind in ("training", "sweep", "stage"):
        records = [record(kind, {"train": train}) for train in (before, now)]
        assert differences(*records) == []
        four = record(kind, {"train": {**now, "lora": {**now["lora"], "quantize": "4bit"}}})
        assert differences(records[0], four) == ["train.lora.quantize: None → '4bit'"]


def test_4_bits_are_for_gpus_and_not_sharded(monkeypatch):
    lora = {"quantize": "4bit"}
    with pytest.raises(ValueError, match=r"lora\.quantize is for GPUs; set use_gpu: true"):
        TrainConfig.model_validate({"lora": lora, "zero_stage": 2})
    with pytest.raises(ValueError, match=r"is for ZeRO stages 0 to 2; set zero_stage: 2"):
        TrainConfig.model_validate({"lora": lora, "use_gpu": True})
    train = TrainConfig.model_validate({"lora": lora, "use_gpu": True, "zero_stage": 2})
    assert train.lora is not None
    check_lora(None)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "bitsandbytes", None)
        with pytest.raises(InputError, match=r"pip install 'steper_ray\[qlora\]'"):
            check_lora(train.lora)
    check_lora(train.lora)


@pytest.mark.engine
@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("zero_stage", [0, 1, 2])
def test_4_bits_learn_as_what_they_stand_for_and_merge_into_the_base(tmp_path, task, zero_stage):
    """On the CPU, for which bitsandbytes has slow kernels; the settings would refuse it."""
    import bitsandbytes
    import torch
    from transformers import AutoModelForCausalLM

    keep_4_bits_as_stored()
    bnb: Any = bitsandbytes  # says little of itself to type checkers
    values = {"zero_stage": zero_stage, "gradient_checkpointing": "selective"}
    training = start(task, lora=LoraConfig(rank=4, quantize="4bit"), **values)
    plain = AutoModelForCausalLM.from_pretrained(task.train.model, dtype=torch.float32)
    base = {name: weight.clone() for name, weight in plain.state_dict().items()}
    for name, module in training.engine.module.model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            whole = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name.removesuffix(".base_layer")).weight.data = whole
    plain.save_pretrained(tmp_path / "plain")
    make_tokenizer().save_pretrained(tmp_path / "plain")
    reference = start(task, lora=LoraConfig(rank=4), model=str(tmp_path / "plain"), **values)
    for number in range(3):
        if number == 1:
            training.save(tmp_path / "checkpoint")
        done, expected = training.train_step(), reference.train_step()
        assert done.loss == pytest.approx(expected.loss, rel=1e-5)
        assert done.grad_norm == pytest.approx(expected.grad_norm, rel=1e-4)
    again = start(task, tmp_path / "checkpoint", lora=LoraConfig(rank=4, quantize="4bit"), **values)
    again.train_step()
    assert learned(again.train_step()) == learned(done)

    updates = []
    for one in (training, reference):
        one.export()
        folder = candidate_dir(tmp_path / "training", one.step)
        student = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()
        own = base if one is training else plain.state_dict()
        updates.append({name: student[name] - own[name] for name in own})
    for name, update in updates[1].items():
        torch.testing.assert_close(updates[0][name], update, atol=1e-6, rtol=1e-3)
    assert max(float(update.abs().max()) for update in updates[0].values()) > 1e-4


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("embed_tokens", r"model\.embed_tokens is no linear layer; leave it out"),
        ("lm_head", r"lm_head is the output head; leave it out"),
        ("nowhere", r"train\.lora\.target_modules: Target modules"),
    ],
)
def test_modules_that_cannot_have_adapters_are_refused(tiny_student, target, said):
    import torch

    from steper_ray.training.student import load_student

    lora = LoraConfig(rank=2, target_modules=(target,))
    with pytest.raises(AllRanksError, match=said):
        load_student(
            str(tiny_student),
            dtype=torch.float32,
            gradient_checkpointing="none",
            packed=False,
            lora=lora,
        )
