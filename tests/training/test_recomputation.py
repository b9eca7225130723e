"""What of a layer is kept for the backward pass: the same gradients, in less or more memory."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from steper_ray.training.settings import Recompute, TrainConfig
from tests.training.one_rank import start


def peak_and_gradients(what: Recompute) -> tuple[int, dict[str, Any]]:
    """Most bytes that torch held at a time during a step of a model of 3M parameters, and its gradients."""
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoConfig, AutoModelForCausalLM

    from steper_ray.training.recomputation import recompute

    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 500}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen3", **sizes, **heads))
    recompute(model, what)
    model.train()
    ids = torch.arange(400)[None]
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        model.base_model(ids, use_cache=False).last_hidden_state.square().mean().backward()
    held = highest = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            highest = max(highest, held)
    named = model.named_parameters()
    return highest, {name: weight.grad for name, weight in named if weight.grad is not None}


def test_memory_lies_between_and_gradients_are_equal():
    import torch

    none, selective, full = (peak_and_gradients(what) for what in get_args(Recompute)[::-1])
    # Measured, in MiB, with 13 of gradients: 43, 30, 23.
    assert 1.1 * full[0] < selective[0] < none[0] / 1.1
    for name, gradient in none[1].items():
        torch.testing.assert_close(selective[1][name], gradient, atol=1e-7, rtol=1e-6)


@pytest.mark.engine
@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_training_does_not_depend_on_what_is_kept(task, zero_stage):
    done = {}
    for what in ("none", "selective"):
        training = start(task, gradient_checkpointing=what, zero_stage=zero_stage)
        steps = [training.train_step() for _ in range(2)]
        done[what] = [number for step in steps for number in (step.loss, step.grad_norm)]
    assert done["selective"] == pytest.approx(done["none"], rel=1e-6)


def test_true_and_false_are_full_and_none():
    for given, what in ((True, "full"), (False, "none"), ("selective", "selective")):
        train = TrainConfig.model_validate({"gradient_checkpointing": given})
        assert train.gradient_checkpointing == what
    assert TrainConfig().gradient_checkpointing == "full"
