import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from pydantic import ValidationError

from steper_ray.errors import InputError, StageError
from steper_ray.models.student_settings import carried_settings
from steper_ray.pipeline.training import train_student
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.run.config import RunConfig
from steper_ray.run.identity import differences
from steper_ray.toy.asking import REASONING
from steper_ray.training.resume import find_checkpoints, task_identity
from steper_ray.training.settings import TrainConfig
from steper_ray.training.storage import check_storage
from steper_ray.training.tokenization import stepwise_files
from steper_ray.training.worker import CHECKPOINT
from steper_ray.training.worker_spec import WorkerTask, read_corpus_version, worker_task
from tests import plain_training as plain

LR, SIGMA_LR, STEPS = 2e-3, 0.1, 3


def run_config(run_dir: Path, **train_values) -> RunConfig:
    return RunConfig.model_validate(
        {"run": {"dir": str(run_dir)}, "reasoning": REASONING, "train": train_values}
    )


def task_of(config: RunConfig, files: list[Path]) -> WorkerTask:
    return worker_task(
        config.train,
        files,
        out=config.folder.root,
        seed=config.run.seed,
        reasoning=config.reasoning,
        corpus_version=read_corpus_version(config.folder.chains),
    )


def small_run(run_dir: Path, model: Path, workers: int | list[int] = 2, **values) -> RunConfig:
    """All chains in each of three global batches, cut into several micro-batches a rank."""
    return run_config(
        run_dir,
        model=str(model),
        lr=LR,
        sigma_lr=SIGMA_LR,
        warmup_ratio=0.01,
        epochs=STEPS,
        chains_per_batch=6,
        micro_batch_tokens=600,
        workers=workers,
        **values,
    )


@pytest.mark.parametrize(
    "values",
    [
        {"fixed_weights": (0, 0, 0)},
        {"sigma_init": (1, 1, 0.01)},
        {"lr": 0},
        {"zero_stage": 4},
        {"zero_stage": 0, "precision": "bf16"},
        {"zero_stage": 2, "offload_weights": "cpu"},
        {"offload_optimizer": "nvme"},
        {"patience": 3},
        {"workers": [3, 2]},
        {"workers": [1, 2], "checkpoint_every_minutes": 0},
        {"best_by": "em"},
        {"trackers": ["excel"]},
        {"lora": {"rank": 0}},
        {"warmup_ratio": 1.5},
    ],
)
def test_impossible_values_are_refused(values):
    with pytest.raises(ValidationError):
        TrainConfig.model_validate(values)


def test_input_is_checked_before_any_worker_starts(tmp_path, tiny_student):
    with pytest.raises(InputError, match=r"train\.model"):
        train_student(run_config(tmp_path, model=str(tmp_path)))
    with pytest.raises(InputError, match="stepwise: no Parquet files"):
        train_student(run_config(tmp_path, model=str(tiny_student)))


@pytest.mark.parametrize(
    ("values", "changed"),
    [
        ({"workers": 5, "cpus_per_worker": 3, "micro_batch_tokens": 99}, None),
        ({"checkpoint_every_minutes": 3.0, "num_to_keep": 7, "trackers": []}, None),
        ({"validate_every_steps": 7}, None),
        ({"precision": "fp32"}, None),  # what auto is without a GPU
        ({"lr": 2e-5}, r"train\.lr changed \(5e-06 → 2e-05\)"),
        ({"objective": "uniform"}, r"train\.objective changed"),
        ({"validation_chains": 1}, r"train\.validation_chains changed"),
        ({"lora": {"rank": 2}, "lr": 5e-6}, r"train\.lora changed"),
        ({"zero_stage": 2, "offload_optimizer": "cpu"}, None),
        ({"zero_stage": 0}, r"checkpoint\.zero_stage changed \(3 → 0\)"),
    ],
)
def test_a_run_resumes_by_what_it_learns_from_and_not_by_how_it_is_cut(
    tmp_path, tiny_student, write_stepwise, capsys, values, changed
):
    write_stepwise(tmp_path, [2, 3])
    files = stepwise_files(tmp_path / "stepwise")

    def checkpoints(**values) -> Path:
        config = run_config(tmp_path, model=str(tiny_student), **values)
        return find_checkpoints(config.folder, task_identity(task_of(config, files)))

    before = checkpoints()
    assert capsys.readouterr().out == ""
    assert (checkpoints(**values) == before) is (changed is None)
    said = capsys.readouterr().out
    if changed is None:
        assert said == ""
    else:
        assert re.search(
            f"train  starts anew because {changed}.*; checkpoints of {before} remain", said
        )


def test_a_run_resumes_however_its_examples_lie_and_its_model_is_called(
    tmp_path, tiny_student, write_stepwise
):
    write_stepwise(tmp_path, [2, 3])
    files = stepwise_files(tmp_path / "stepwise")
    before = task_identity(task_of(run_config(tmp_path, model=str(tiny_student)), files))
    whole = tmp_path / "whole.parquet"
    table = pq.read_table(files)
    pq.write_table(table, whole, compression="zstd")
    copied = shutil.copytree(tiny_student, tmp_path / "copied", copy_function=shutil.copyfile)
    now = task_identity(task_of(run_config(tmp_path, model=str(copied)), [whole]))
    assert differences(before, now) == []
    pq.write_table(table.slice(1), whole)
    now = task_identity(task_of(run_config(tmp_path, model=str(copied)), [whole]))
    assert [line.partition(":")[0] for line in differences(before, now)] == ["examples"]


def test_a_full_disk_is_noticed_before_any_worker_starts(
    tmp_path, tiny_student, write_stepwise, monkeypatch
):
    write_stepwise(tmp_path, [2, 3])
    full = SimpleNamespace(total=10**9, used=10**9, free=10**6)
    monkeypatch.setattr("shutil.disk_usage", lambda _: full)
    with pytest.raises(InputError, match=r"has 0\.0 GB free, training takes up to"):
        train_student(run_config(tmp_path, model=str(tiny_student)))


def test_a_folder_that_cannot_be_written_is_noticed(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"run\.dir: cannot write to .*file/run"):
        check_storage(tmp_path / "file" / "run", None)


@pytest.mark.usefixtures("ray_cluster")
def test_two_zero3_workers_train_as_plain_torch_does_and_survive_a_kill(
    tmp_path, write_stepwise, tiny_student, plain_training
):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    examples = write_stepwise(tmp_path, [2, 3, 4, 1, 2, 3])
    file, texts = tmp_path / "mix.jsonl", ["Title: Rome\nText: Rome is a town.", "The answer."]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = AutoTokenizer.from_pretrained(tiny_student)
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in texts]
    mix = plain.Mix([(row, list(range(1, len(row)))) for row in ids], weight=2.0)
    expected, model = plain_training(
        tiny_student, examples, STEPS, lr=LR, sigma_lr=SIGMA_LR, mix=mix
    )
    config = small_run(
        tmp_path,
        tiny_student,
        workers=[1, 2],
        checkpoint_every_steps=1,
        num_to_keep=9,
        mix={"data": str(file), "ratio": len(texts) / len(examples), "weight": mix.weight},
    )

    killed: list[int] = []
    killer = threading.Thread(
        target=kill_a_worker_after_a_checkpoint, args=(config, killed), daemon=True
    )
    killer.start()
    summary = train_student(config)

    assert killed
    lines = metrics_of_one_run(config)
    for line, step in zip(lines, expected, strict=True):
        assert line["loss"] == pytest.approx(step.loss, rel=1e-5)
        assert line["mix_loss"] == pytest.approx(step.mix_loss, rel=1e-5)
        losses = [line["L_init"], line["L_exp"], line["L_agg"]]
        assert losses == pytest.approx(step.loss_A, rel=1e-5)
        assert line["grad_norm"] == pytest.approx(step.gradient_norm, rel=1e-4)
        sigma_A = [line["sigma_init"], line["sigma_exp"], line["sigma_agg"]]
        assert sigma_A == pytest.approx(step.sigma_A, rel=1e-5)
        assert line["examples"] == len(examples)
    assert summary.steps == STEPS
    assert summary.examples == {"init": 5, "exp": 4, "agg": 6}
    assert summary.dropped_passages == 0
    assert list(summary.ability_losses.values()) == pytest.approx(expected[-1].loss_A, rel=1e-5)

    assert not config.folder.student.with_name("student.partial").exists()
    complete = complete_reasoning(config.reasoning)
    trained = complete.model_copy(update={"chat": False})  # its tokenizer has no template
    assert carried_settings(str(config.folder.student)) == (trained, "v1")
    student = AutoModelForCausalLM.from_pretrained(config.folder.student)
    tokenizer = AutoTokenizer.from_pretrained(config.folder.student)
    assert student.config.tie_word_embeddings
    prompt = torch.tensor([tokenizer(examples[0].prompt)["input_ids"]])
    torch.testing.assert_close(student(prompt).logits, model(prompt).logits, atol=2e-2, rtol=0)


@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_job_goes_on_with_fewer_workers_and_is_not_done_twice(
    tmp_path, write_stepwise, tiny_student, plain_training
):
    examples = write_stepwise(tmp_path, [2, 3, 4, 1, 2, 3])
    expected, _ = plain_training(tiny_student, examples, STEPS, lr=LR, sigma_lr=SIGMA_LR)
    config = small_run(tmp_path, tiny_student, checkpoint_every_steps=1, num_to_keep=9)
    file = tmp_path / "run.yaml"
    train = config.train.model_dump(mode="json")
    sections = {"run": {"dir": str(tmp_path)}, "reasoning": REASONING, "train": train}
    file.write_text(yaml.safe_dump(sections))
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as ray:
        job = subprocess.Popen(
            [sys.executable, "-m", "steper_ray.cli", "train", "--config", str(file)],
            env={**os.environ, "RAY_TMPDIR": ray, "RAY_ADDRESS": ""},
            stdout=subprocess.DEVNULL,
        )
        await_checkpoint(config, lambda: job.poll() is None)
        family = [psutil.Process(job.pid), *psutil.Process(job.pid).children(recursive=True)]
        for process in family:
            process.kill()
        job.wait()
        psutil.wait_procs(family, timeout=20)
    assert not config.folder.student.exists()

    config = config.model_copy(update={"train": config.train.model_copy(update={"workers": 1})})
    summary = train_student(config)
    lines = metrics_of_one_run(config)
    assert [line["loss"] for line in lines] == pytest.approx([s.loss for s in expected], rel=1e-5)
    assert "distilled step by step" in (config.folder.student / "README.md").read_text()
    assert {"losses.png", "sigma.png"} <= {file.name for file in config.folder.student.iterdir()}

    stamps = stamps_in(tmp_path)
    assert train_student(config) == summary
    assert stamps_in(tmp_path) == stamps, "a run that is done starts no workers"


@pytest.mark.usefixtures("ray_cluster")
def test_sigterm_writes_a_checkpoint_and_stops(tmp_path, write_stepwise, tiny_student):
    write_stepwise(tmp_path, [2, 3, 4, 1, 2, 3])
    config = small_run(tmp_path, tiny_student, workers=1)
    file = tmp_path / "run.yaml"
    train = {**config.train.model_dump(mode="json"), "epochs": 5000}
    file.write_text(yaml.safe_dump({"run": {"dir": str(tmp_path)}, "train": train}))
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as ray:
        other = Path(ray) / "ray" / "ray_current_cluster"  # what `ray start` leaves
        other.parent.mkdir()
        other.write_text("127.0.0.1:1")
        job = subprocess.Popen(
            [sys.executable, "-m", "steper_ray.cli", "train", "--config", str(file)],
            env={**os.environ, "RAY_TMPDIR": ray, "RAY_ADDRESS": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while not metrics_of(config):
                assert job.poll() is None
                time.sleep(0.1)
            job.terminate()
            output, errors = job.communicate(timeout=120)
        finally:
            job.kill()
    steps = [line["step"] for line in metrics_of(config)]
    assert job.returncode == 130
    assert f"steper: train: stopped by SIGTERM after step {steps[-1]:,} of 5,000; " in errors
    assert "stops after this step, with a checkpoint" in output
    (checkpoint,) = config.folder.checkpoints.glob(f"*/{CHECKPOINT}*")
    assert json.loads((checkpoint / "state.json").read_text())["last"]["step"] == steps[-1]
    assert not config.folder.student.exists()
    assert not (config.folder.training / "stop").exists()


def await_checkpoint(config: RunConfig, still_runs: Callable[[], bool]) -> None:
    """Returns as soon as Ray Train has taken note of a checkpoint."""
    while not any(
        CHECKPOINT in note.read_text()
        for note in config.folder.root.glob("checkpoints/*/checkpoint_manager_snapshot.json")
    ):
        assert still_runs(), "it was over before"
        time.sleep(0.05)


def stamps_in(folder: Path) -> dict[Path, int]:
    """When each file of a folder was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def kill_a_worker_after_a_checkpoint(config: RunConfig, killed: list[int]) -> None:
    """Kills one training worker as soon as there is something to go on from."""
    await_checkpoint(config, lambda: not config.folder.student.exists())
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            process.kill()
            killed.append(process.pid)
            return


def metrics_of_one_run(config: RunConfig) -> list[dict[str, Any]]:
    """The metrics of a run that was interrupted and went on, each step once."""
    assert len(list(config.folder.root.glob("checkpoints/train-*"))) == 1
    states = config.folder.root.glob("checkpoints/*/checkpoint_*/state.json")
    saved = [json.loads(state.read_text())["last"]["step"] for state in states]
    assert saved.count(1) == 1, "the run began again instead of going on"
    lines = metrics_of(config)
    assert [line["step"] for line in lines] == [1, 2, 3]
    return lines


def metrics_of(config: RunConfig) -> list[dict[str, Any]]:
    """The lines written so far."""
    if not config.folder.metrics.exists():
        return []
    return [json.loads(line) for line in config.folder.metrics.read_text().splitlines()]


@pytest.mark.gpu
@pytest.mark.usefixtures("ray_cluster")
def test_a_worker_on_a_gpu_trains_in_bf16_close_to_plain_torch_in_fp32(
    tmp_path, write_stepwise, tiny_student, plain_training
):
    examples = write_stepwise(tmp_path, [2, 3, 4, 1, 2, 3])
    expected, _ = plain_training(tiny_student, examples, STEPS, lr=LR, sigma_lr=SIGMA_LR)
    config = small_run(tmp_path, tiny_student, workers=1, use_gpu=True)
    train_student(config)
    for line, step in zip(metrics_of(config), expected, strict=True):
        assert line["loss"] == pytest.approx(step.loss, rel=0.01)
        assert line["grad_norm"] == pytest.approx(step.gradient_norm, rel=0.03)
        assert line["mfu"] is None or line["mfu"] > 0
    assert (config.folder.student / "model.safetensors").is_file()


@pytest.mark.usefixtures("ray_cluster")
def test_a_loss_that_is_no_number_is_not_tried_again(tmp_path, write_stepwise, tiny_student):
    """The base student's weights are no numbers; every retry would train on them again."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    write_stepwise(tmp_path, [2, 3])
    model = AutoModelForCausalLM.from_pretrained(tiny_student, dtype=torch.float32)
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    model.save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_student).save_pretrained(tmp_path / "base")
    config = small_run(tmp_path, tmp_path / "base")
    assert config.train.max_restarts > 0
    with pytest.raises(
        StageError, match=r"^train: the loss of step 1 is nan, from example c0000/1"
    ):
        train_student(config)
    (log,) = (tmp_path / "logs" / "train").glob("20*")
    starts = [
        line for line in (log / "worker-0.log").read_text().splitlines() if "starts at" in line
    ]
    assert len(starts) == 1
