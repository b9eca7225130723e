"""DeepSpeed in this process, as the only rank; several ranks are tested in test_trainer.py."""

import os
import socket
from dataclasses import replace

import pytest
import torch

from steper_ray.errors import StageError
from steper_ray.reasoning.ircot import INSTRUCTION
from steper_ray.training.data import stepwise_files
from steper_ray.training.worker import StudentTraining, WorkerTask, prepare_process

pytestmark = pytest.mark.engine

LR, SIGMA_LR = 2e-3, 0.1


@pytest.fixture(scope="module")
def only_rank():
    """torch.distributed with a single rank, as Ray Train would have set it up."""
    with pytest.MonkeyPatch.context() as patch:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        values = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        values |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        values |= {"DS_ACCELERATOR": "cpu", "PATH": os.environ["PATH"]}
        for name, value in values.items():
            patch.setenv(name, value)
        torch.distributed.init_process_group("gloo")
        yield
        torch.distributed.destroy_process_group()


@pytest.fixture
def task(tmp_path, write_stepwise, tiny_student) -> WorkerTask:
    write_stepwise(tmp_path, [3, 2, 4])
    task = WorkerTask(
        stepwise_files=tuple(map(str, stepwise_files(tmp_path / "stepwise"))),
        training_dir=str(tmp_path / "training"),
        student_dir=str(tmp_path / "student"),
        model=str(tiny_student),
        seed=0,
        instruction=INSTRUCTION,
        max_prompt_tokens=1000,
        student_settings={},
        objective="difficulty",
        fixed_weights=(1.0, 1.0, 1.0),
        sigma_init=(1.0, 1.0, 1.0),
        sigma_lr=SIGMA_LR,
        sigma_min=0.05,
        sigma_max=20.0,
        lr=LR,
        warmup_ratio=0.01,
        weight_decay=0.0,
        max_grad_norm=1.0,
        epochs=3,
        chains_per_batch=3,
        micro_batch_tokens=600,
        zero_stage=3,
        packing=True,
        gradient_checkpointing=False,
        use_gpu=False,
        threads=1,
        checkpoint_every_steps=0,
        log=str(tmp_path / "train.log"),
    )
    prepare_process(task)
    return task


def start(task: WorkerTask) -> StudentTraining:
    return StudentTraining(task, 0, 1, torch.device("cpu"))


@pytest.mark.usefixtures("only_rank")
@pytest.mark.parametrize(("zero_stage", "packing"), [(1, True), (2, True), (3, True), (3, False)])
def test_every_zero_stage_trains_as_plain_torch_does(
    tmp_path, write_stepwise, task, plain_training, zero_stage, packing
):
    examples = write_stepwise(tmp_path, [3, 2, 4])
    steps, _ = plain_training(task.model, examples, 3, lr=LR, sigma_lr=SIGMA_LR)
    training = start(replace(task, zero_stage=zero_stage, packing=packing))
    for expected in steps:
        done = training.train_step()
        assert done.loss == pytest.approx(expected.loss, rel=1e-4)
        assert [done.L_init, done.L_exp, done.L_agg] == pytest.approx(expected.loss_3, rel=1e-4)
        assert done.grad_norm == pytest.approx(expected.gradient_norm, rel=1e-3)
        sigma_3 = [done.sigma_init, done.sigma_exp, done.sigma_agg]
        assert sigma_3 == pytest.approx(expected.sigma_3, rel=1e-4)


@pytest.mark.usefixtures("only_rank")
def test_training_goes_on_from_a_checkpoint_as_if_never_stopped(tmp_path, task):
    training = start(replace(task, chains_per_batch=2, epochs=2))
    training.train_step()
    training.save(tmp_path / "checkpoint")
    without_break = [training.train_step() for _ in range(3)]
    again = start(replace(task, chains_per_batch=2, epochs=2))
    again.restore(tmp_path / "checkpoint")
    for expected in without_break:
        done = again.train_step()
        assert replace(done, seconds=0.0, tokens_per_second=0.0) == replace(
            expected, seconds=0.0, tokens_per_second=0.0
        )


@pytest.mark.usefixtures("only_rank")
def test_a_checkpoint_of_another_number_of_workers_is_refused(tmp_path, task):
    training = start(task)
    training.train_step()
    training.save(tmp_path / "checkpoint")
    training.ranks = 2
    with pytest.raises(StageError, match="written by 1 workers"):
        training.restore(tmp_path / "checkpoint")


@pytest.mark.usefixtures("only_rank")
def test_uniform_leaves_sigma_alone(task):
    done = start(replace(task, objective="uniform")).train_step()
    assert done.loss == pytest.approx((done.L_init + done.L_exp + done.L_agg) / 3)
    assert done.sigma_init == done.sigma_exp == done.sigma_agg == pytest.approx(1.0)


@pytest.mark.usefixtures("only_rank")
def test_an_absent_stage_is_null_and_its_sigma_stays(tmp_path, task, write_stepwise):
    write_stepwise(tmp_path, [2, 2])
    done = start(task).train_step()
    assert done.L_exp is None
    assert done.sigma_exp == 1.0
    assert done.sigma_init != 1.0


@pytest.mark.usefixtures("only_rank")
def test_a_loss_that_is_no_number_ends_the_run(task):
    training = start(replace(task, zero_stage=1))
    with torch.no_grad():
        next(training.engine.module.parameters()).fill_(float("nan"))
    with pytest.raises(StageError, match="loss of step 1 is nan"):
        training.train_step()
