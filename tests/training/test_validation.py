"""Validations, by DeepSpeed in this process as the only rank; several ranks are tested in test_ranks.py."""

import math
from typing import Any

import pytest

from steper_ray.schema import StepExample
from steper_ray.training.candidates import keep_candidates
from steper_ray.training.validation import Validations, validations_at
from tests.training.one_rank import gather_and_save, start

pytestmark = pytest.mark.engine

EACH_STEP: dict[str, Any] = {
    "validation_chains": 2,
    "validate_every_steps": 1,
    "chains_per_batch": 2,
}
"""Settings that validate after each step."""


def test_validations_are_counted_when_they_are_done_and_not_before() -> None:
    # of 7 steps with a validation after every 3: after steps 3, 6 and 7
    assert [validations_at(step, 7, 3) for step in range(8)] == [0, 0, 0, 1, 1, 1, 2, 3]
    assert [validations_at(step, 6, 3) for step in range(7)] == [0, 0, 0, 1, 1, 1, 2]


def test_a_loss_that_is_no_number_is_worse_than_any_other() -> None:
    nan, inf = math.nan, math.inf
    validations = Validations(keep=2, patience=2)
    assert validations.add(nan, 1)  # there is no other student
    assert validations.add(0.5, 2)
    assert validations.best == [(0.5, 2), (inf, 1)]
    assert validations.add(0.75, 3)
    assert not validations.add(nan, 4)
    assert validations.best == [(0.5, 2), (0.75, 3)]
    assert validations.exhausted


def examples_of(examples: list[StepExample], chains: set[str]) -> list[StepExample]:
    return [example for example in examples if example.chain_id in chains]


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize("packing", [True, False])
def test_validation_is_the_plain_loss_of_chains_that_are_not_trained_on(
    tmp_path, task, write_stepwise, reference, packing
):
    import torch
    from transformers import AutoModelForCausalLM

    written = write_stepwise(tmp_path, [3, 2, 4, 3, 3, 2])
    training = start(
        task, validation_chains=2, chains_per_batch=2, packing=packing, validate_every_steps=1
    )
    held_out = {training.data.stored.example(chain[0]).chain_id for chain in training.data.held_out}
    trained = {training.data.stored.example(chain[0]).chain_id for chain in training.data.chains}
    assert len(held_out) == 2
    assert held_out | trained == {example.chain_id for example in written}
    assert not held_out & trained

    training.train_step()
    gather_and_save(training, tmp_path / "trained")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    plain = reference(model, examples_of(written, held_out), [1.0, 1.0, 1.0])
    assert training.validation_due
    done = training.validate()
    found = list(done.validation.values())
    assert found == pytest.approx(plain.loss_A, rel=1e-5)
    assert done.validation_loss == pytest.approx(sum(plain.loss_A) / 3, rel=1e-5)
    # Nothing was learned from them.
    gather_and_save(training, tmp_path / "after")
    before, after = (
        AutoModelForCausalLM.from_pretrained(tmp_path / name).state_dict()
        for name in ("trained", "after")
    )
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.usefixtures("only_rank")
def test_the_best_student_is_kept_and_patience_ends_the_training(tmp_path, task, write_stepwise):
    import torch
    from transformers import AutoModelForCausalLM

    write_stepwise(tmp_path, [3, 2, 4, 3, 3, 2])
    # A learning rate at which the loss soon gets worse again.
    training = start(
        task,
        lr=0.3,
        epochs=20,
        chains_per_batch=4,
        validation_chains=2,
        validate_every_steps=1,
        patience=2,
    )
    losses: list[Any] = []
    students = []
    while not training.finished:
        training.train_step()
        losses.append(training.validate().validation_loss)
        gather_and_save(training, tmp_path / f"step-{training.step}")
        students.append(tmp_path / f"step-{training.step}")
    best = losses.index(min(losses))
    assert training.step == best + 3 < training.steps
    assert training.validations.best == [(losses[best], best + 1)]
    keep_candidates(training.task, [best + 1])
    (candidate,) = (tmp_path / "training" / "candidates").iterdir()
    assert candidate.name == f"step-{best + 1:06d}"
    kept = AutoModelForCausalLM.from_pretrained(candidate, dtype=torch.float32).state_dict()
    expected = AutoModelForCausalLM.from_pretrained(students[best]).state_dict()
    for name, weight in expected.items():
        torch.testing.assert_close(kept[name], weight, atol=0, rtol=2**-8)  # bf16 as its base


@pytest.mark.usefixtures("only_rank")
def test_a_validation_that_resumes_remembers_the_best(tmp_path, task, write_stepwise):
    write_stepwise(tmp_path, [3, 2, 4, 3, 3, 2])
    training = start(task, **EACH_STEP)
    training.train_step()
    training.validate()
    training.save(tmp_path / "checkpoint")
    assert start(task, tmp_path / "checkpoint", **EACH_STEP).validations == training.validations


@pytest.mark.usefixtures("only_rank")
def test_a_student_stays_until_a_checkpoint_that_no_longer_names_it_is_whole(
    tmp_path, task, write_stepwise
):
    write_stepwise(tmp_path, [3, 2, 4, 3, 3, 2])
    training = start(task, **EACH_STEP)
    for _ in range(2):
        training.train_step()
        training.validate()
        if training.step == 1:
            training.save(tmp_path / "first")
    assert training.validations.best[0][1] == 2, "the second student is the better one"
    candidates = tmp_path / "training" / "candidates"
    assert sorted(path.name for path in candidates.iterdir()) == ["step-000001", "step-000002"]
    # killed here: the checkpoint there is names the first student, which is there
    assert start(task, tmp_path / "first", **EACH_STEP).validations.best[0][1] == 1
    training.save(tmp_path / "second")
    keep_candidates(training.task, [2])
    assert [path.name for path in candidates.iterdir()] == ["step-000002"]
    resumed = start(task, tmp_path / "second", **EACH_STEP)
    assert resumed.validations == training.validations
    # a record whose student is gone is dropped
    assert start(task, tmp_path / "first", **EACH_STEP).validations.best == []
