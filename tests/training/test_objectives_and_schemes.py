"""An added objective and an added ability scheme, each trained by DeepSpeed in this process."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from steper_ray.selection.abilities import AbilityScheme
from steper_ray.training.objective import OBJECTIVES, Objective, PerAbility, WeightInputs
from tests.training.one_rank import SIGMA_LR, learned, start

pytestmark = pytest.mark.engine


def towards_the_last(inputs: WeightInputs) -> PerAbility:
    """All weight on the first ability at first, then more and more on the last."""
    progress = inputs.step / inputs.steps
    return (1 - progress, 0.0, progress)


@pytest.mark.usefixtures("only_rank")
def test_an_added_objective_whose_weights_depend_on_the_step(
    tmp_path, task, write_stepwise, reference, monkeypatch
):
    from transformers import AutoModelForCausalLM

    monkeypatch.setitem(OBJECTIVES, "curriculum", Objective(weights=towards_the_last))
    written = write_stepwise(tmp_path, [3, 2, 4])
    model = AutoModelForCausalLM.from_pretrained(task.train.model)
    # L/(2σ²) + log σ at σ² = ½ is L but for a constant.
    first = reference(model, written, [0.5**0.5], ("init",))
    training = start(task, objective="curriculum")
    for progress in (0, 1 / 3, 2 / 3):
        done = training.train_step()
        init, agg = done.L["init"], done.L["agg"]
        assert init is not None
        assert agg is not None
        assert done.loss == pytest.approx((1 - progress) * init + progress * agg)
        assert list(done.sigma.values()) == pytest.approx([1.0, 1.0, 1.0])
        if not progress:
            assert done.grad_norm == pytest.approx(first.gradient_norm, rel=1e-4)


def four_abilities(step: int, steps: int) -> str:
    if step == steps:
        return "last"
    return {1: "first", 2: "second"}.get(step, "middle")


FOUR = AbilityScheme("four", ("first", "second", "middle", "last"), four_abilities)


@pytest.mark.usefixtures("only_rank")
def test_a_scheme_of_four_abilities_is_trained_validated_saved_and_resumed(
    tmp_path, task, write_stepwise, reference
):
    from transformers import AutoModelForCausalLM

    written = write_stepwise(tmp_path, [4, 3, 4, 4, 4], FOUR)
    sigma_A = (0.5, 1.0, 2.0, 1.5)
    task = replace(task, scheme=FOUR)
    values: dict[str, Any] = {
        "abilities": FOUR.names,
        "sigma_init": sigma_A,
        "validation_chains": 1,
        "validate_every_steps": 1,
        "chains_per_batch": 4,
    }
    training = start(task, **values)
    trained = {training.data.stored.example(chain[0]).chain_id for chain in training.data.chains}
    model = AutoModelForCausalLM.from_pretrained(task.train.model)
    examples = [example for example in written if example.chain_id in trained]
    expected = reference(model, examples, list(sigma_A), FOUR.names)
    done = training.train_step()
    assert done.loss == pytest.approx(expected.loss, rel=1e-5)
    assert list(done.L) == list(FOUR.names)
    assert list(done.L.values()) == pytest.approx(expected.loss_A, rel=1e-5)
    assert done.grad_norm == pytest.approx(expected.gradient_norm, rel=1e-4)
    # Adam's first step is its learning rate against the sign of the gradient 1 − L/σ².
    for name, sigma, loss in zip(FOUR.names, sigma_A, expected.loss_A, strict=True):
        direction = 1 if loss > sigma**2 else -1
        assert done.sigma[name] == pytest.approx(sigma * np.exp(direction * SIGMA_LR), rel=1e-4)
    validated = training.validate()
    losses: list[Any] = list(validated.validation.values())
    assert validated.validation_loss == pytest.approx(np.mean(losses))
    assert {"L_middle", "sigma_middle", "validation_middle"} <= validated.as_row().keys()
    assert (tmp_path / "training" / "candidates" / "step-000001" / "steper.json").is_file()

    training.save(tmp_path / "checkpoint")
    state = json.loads((tmp_path / "checkpoint" / "state.json").read_text())
    assert state["abilities"] == {"name": "four", "names": list(FOUR.names)}
    resumed = start(task, tmp_path / "checkpoint", **values)
    assert learned(resumed.train_step()) == learned(training.train_step())
