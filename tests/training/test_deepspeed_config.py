from typing import Any

import pytest

from steper_ray.training.deepspeed_config import deepspeed_config, merged
from steper_ray.training.schedule import learning_rate


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
