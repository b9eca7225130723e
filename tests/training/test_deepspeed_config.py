from typing import Any

import pytest
from pydantic import ValidationError

from steper_ray.training.deepspeed_config import deepspeed_config, merged
from steper_ray.training.schedule import learning_rate
from steper_ray.training.settings import TrainConfig


def test_learning_rate_rises_then_falls():
    rates = [learning_rate(step, 10, peak=1.0, warmup_ratio=0.2) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    # Half way through the eight steps of the cosine.
    assert rates[6] == pytest.approx(0.5)
    assert rates == rates[:2] + sorted(rates[2:], reverse=True)
    assert rates[-1] > 0


def test_without_warmup_the_first_step_has_the_peak():
    assert learning_rate(0, 5, peak=3e-4, warmup_ratio=0.0) == 3e-4


@pytest.mark.parametrize("bf16", [False, True])
def test_deepspeed_divides_by_nothing_of_its_own(bf16):
    config = deepspeed_config(zero_stage=3, bf16=bf16, lr=1e-3, weight_decay=0.1, max_grad_norm=0.7)
    assert config["gradient_accumulation_steps"] == 1
    assert config["gradient_clipping"] == 0.7
    assert config["bf16"]["enabled"] is bf16
    params = {"lr": 1e-3, "weight_decay": 0.1, "torch_adam": True, "fused": True}
    assert config["optimizer"]["params"] == params


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (
            {"gradient_accumulation_steps": 4},
            "deepspeed.gradient_accumulation_steps is the trainer's own; set train.micro_batch_tokens",
        ),
        ({"zero_optimization": {"stage": 2}}, "zero_optimization.stage .* set train.zero_stage"),
        ({"bf16": {"enabled": True}}, "deepspeed.bf16 .* set train.precision instead"),
        ({"gradient_clipping": 0.5}, "set train.max_grad_norm instead"),
        ({"optimizer": {"type": "Muon"}}, "deepspeed.optimizer.type is the trainer's own "),
        ({"optimizer": {"params": {"lr": 1.0}}}, "set train.lr instead"),
    ],
)
def test_what_the_trainer_sets_itself_is_refused(given, line):
    with pytest.raises(ValidationError, match=line.replace(".", r"\.").replace(r" \.*", ".*")):
        TrainConfig(deepspeed=given)


def test_what_the_trainer_does_not_set_is_taken():
    given = {
        "optimizer": {"params": {"betas": [0.9, 0.95]}},
        "zero_optimization": {"reduce_bucket_size": 1, "offload_optimizer": {"ratio": 0.5}},
    }
    assert TrainConfig(deepspeed=given).deepspeed == given


def test_offload_names_its_place_and_takes_the_adam_made_for_it():
    config = deepspeed_config(
        zero_stage=3,
        bf16=True,
        gpu=True,
        lr=1e-3,
        weight_decay=0.0,
        max_grad_norm=1.0,
        offload_optimizer="cpu",
        offload_weights="nvme",
        offload_dir="/scratch",
    )
    zero = config["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "cpu", "pin_memory": True}
    expected = {"device": "nvme", "pin_memory": True, "nvme_path": "/scratch"}
    assert zero["offload_param"] == expected
    assert "torch_adam" not in config["optimizer"]["params"]


def test_overrides_are_laid_over_section_by_section():
    base: dict[str, Any] = {"a": {"b": 1, "c": {"d": 2}}, "e": 3}
    assert merged(base, {"a": {"c": {"d": 4}}, "f": {"g": 5}}) == {
        "a": {"b": 1, "c": {"d": 4}},
        "e": 3,
        "f": {"g": 5},
    }
    assert base["a"]["c"]["d"] == 2
