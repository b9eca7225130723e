"""DeepSpeed in this process, as the only rank; several ranks are tested in test_trainer.py."""

import json
import os
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from steper_ray.errors import StageError
from steper_ray.reasoning.ircot import INSTRUCTION, render_prompt
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.training.data import stepwise_files
from steper_ray.training.student import gather_weights
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
        stages=("init", "exp", "agg"),
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


def gather_and_save(training: StudentTraining, folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(training.task.model)
    model.load_state_dict(gather_weights(training.engine.module.model, keep=True), strict=False)
    model.save_pretrained(folder)


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
def test_accuracy_is_the_share_of_target_tokens_that_were_the_likeliest(
    tmp_path, task, write_stepwise
):
    written = write_stepwise(tmp_path, [3, 2, 4])
    first = start(replace(task, epochs=60))
    for _ in range(3):  # until some tokens are right and some are not
        first.train_step()
    gather_and_save(first, tmp_path / "trained")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "trained")
    tokenizer = make_tokenizer()
    shares: dict[str, list[float]] = {}
    for example in written:
        prompt = tokenizer(example.prompt)["input_ids"]
        target = tokenizer(example.target)["input_ids"]
        with torch.no_grad():
            likeliest = model(torch.tensor([prompt + target])).logits[0].argmax(-1)
        right = likeliest[len(prompt) - 1 : -1] == torch.tensor(target)
        shares.setdefault(example.stage, []).append(right.float().mean().item())
    done = first.train_step()
    expected = [sum(shares[stage]) / len(shares[stage]) for stage in ("init", "exp", "agg")]
    assert all(0 < share < 1 for share in expected)
    found = [done.accuracy_init, done.accuracy_exp, done.accuracy_agg]
    assert found == pytest.approx(expected, abs=0.03)  # a tie may fall either way


@pytest.mark.usefixtures("only_rank")
def test_vanilla_kd_is_the_mean_over_whole_paths(tmp_path, task, write_stepwise):
    written = write_stepwise(tmp_path, [3, 2, 4])
    model = AutoModelForCausalLM.from_pretrained(task.model)
    tokenizer = make_tokenizer()
    losses = []
    for last, steps in ((written[2], 3), (written[4], 2), (written[8], 4)):
        lines = [*last.reasoning, last.target.strip()]
        assert len(lines) == steps
        path = f" {lines[0]}\n" + "".join(f"Step {s}: {r}\n" for s, r in enumerate(lines[1:], 2))
        prompt = tokenizer(render_prompt(last.question, last.passages))["input_ids"]
        target = tokenizer(path)["input_ids"]
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor(target)))
    expected = torch.stack(losses).mean()
    expected.backward()
    squares = sum(float(p.grad.double().square().sum()) for p in model.parameters())
    done = start(replace(task, objective="vanilla-kd")).train_step()
    assert done.loss == pytest.approx(expected.item(), rel=1e-5)
    assert done.grad_norm == pytest.approx(squares**0.5, rel=1e-3)
    assert (done.L_init, done.L_exp, done.L_agg) == (None, None, None)
    assert done.examples == 3
    assert done.sigma_agg == 1.0


@pytest.mark.usefixtures("only_rank")
def test_an_absent_stage_is_null_and_its_sigma_stays(tmp_path, task, write_stepwise):
    write_stepwise(tmp_path, [2, 2])
    done = start(replace(task, stages=("init", "agg"))).train_step()
    assert done.L_exp is None
    assert done.sigma_exp == 1.0
    assert done.sigma_init != 1.0


@pytest.mark.usefixtures("only_rank")
def test_a_loss_that_is_no_number_ends_the_run_and_names_its_examples(tmp_path, task):
    training = start(replace(task, zero_stage=1))
    with torch.no_grad():
        next(training.engine.module.parameters()).fill_(float("nan"))
    with pytest.raises(StageError, match=r"loss of step 1 is nan.*bad_batch\.json"):
        training.train_step()
    bad = json.loads((tmp_path / "training" / "bad_batch.json").read_text())
    assert bad["step"] == 1
    assert len(bad["examples"]) == 9
    assert {"c0000/1", "c0002/4"} <= set(bad["examples"])
