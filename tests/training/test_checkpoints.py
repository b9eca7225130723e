"""Checkpoints, by DeepSpeed in this process as the only rank; several ranks are tested in test_ranks.py."""

import pickle
import random

import numpy as np
import pytest

from steper_ray.errors import AllRanksError, InputError
from steper_ray.training.all_ranks import agreed
from tests.training.one_rank import learned, start

pytestmark = pytest.mark.engine


@pytest.mark.usefixtures("only_rank")
def test_training_resumes_from_a_checkpoint_as_if_never_stopped(tmp_path, task):
    training = start(task, chains_per_batch=2, epochs=2)
    training.train_step()
    training.save(tmp_path / "checkpoint")
    without_break = [training.train_step() for _ in range(3)]
    again = start(task, tmp_path / "checkpoint", chains_per_batch=2, epochs=2)
    for expected in without_break:
        done = again.train_step()
        assert learned(done) == learned(expected)


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize(
    ("settings", "minutes", "due"),
    [
        ({"checkpoint_every_minutes": 0.5}, 1, True),
        ({"checkpoint_every_minutes": 0.5}, 0, False),
        ({}, 31, True),
        ({}, 20, False),
        ({"checkpoint_every_minutes": 0}, 10_000, False),
    ],
)
def test_a_checkpoint_is_due_by_the_clock(task, settings, minutes, due):
    training = start(task, chains_per_batch=1, **settings)
    training.saved -= 60 * minutes
    training.train_step()
    assert training.checkpoint_due is due


@pytest.mark.usefixtures("only_rank")
def test_every_random_state_resumes_from_a_checkpoint(tmp_path, task, device):
    import torch

    training = start(task)
    training.train_step()
    training.save(tmp_path / "checkpoint")

    def draws() -> list[float]:
        drawn = [torch.rand((), device=place).item() for place in ("cpu", device)]
        return [random.random(), float(np.random.random()), *drawn]

    expected = draws()
    random.seed(5)
    np.random.seed(5)
    start(task, tmp_path / "checkpoint")
    assert draws() == expected


@pytest.mark.usefixtures("only_rank")
def test_a_random_state_is_read_without_running_code(tmp_path, task):
    import torch

    training = start(task)
    training.train_step()
    training.save(tmp_path / "checkpoint")
    state = torch.load(tmp_path / "checkpoint" / "random-0.pt", weights_only=True)
    assert set(state) == {"python", "numpy", "torch", "cuda"}


@pytest.mark.usefixtures("only_rank")
def test_an_error_of_any_rank_is_one_of_all(tmp_path, task):
    def broken() -> None:
        raise InputError("no such file")

    with pytest.raises(AllRanksError, match=r"^no such file$") as told:
        agreed(broken, 1)
    assert isinstance(told.value.original(), InputError)
    assert agreed(lambda: 5, 1) == 5
    copy = pickle.loads(pickle.dumps(told.value))
    assert (str(copy), copy.of_input) == ("no such file", True)
    with pytest.raises(ZeroDivisionError):
        agreed(lambda: 1 // 0, 1)
