"""Sweeps with real trials of a tiny student: whole, killed and restored, stopped early, failed."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import pandas as pd
import psutil
import pytest
import yaml

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.pipeline.training import train_student
from steper_ray.ray_runtime.progress import StageProgress
from steper_ray.run.loading import load_config
from steper_ray.sweep.sweep import sweep, sweep_folder
from steper_ray.training.worker import CHECKPOINT

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def data(write_stepwise: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with the examples of twenty chains."""
    folder = tmp_path_factory.mktemp("data")
    write_stepwise(folder, [2, 3, 4, 2, 3] * 4)
    return folder


@pytest.fixture
def options(data: Path, tiny_student: Path, tmp_path: Path) -> list[str]:
    """Overrides of the toy's run file: seconds a trial."""
    return [
        f"run.dir={tmp_path / 'run'}",
        f"run.data={data}",
        f"train.model={tiny_student}",
        "train.workers=1",
        "train.zero_stage=0",
        "train.gradient_checkpointing=false",
        "train.trackers=[]",
        "train.max_restarts=0",
        "train.chains_per_batch=8",
        "train.epochs=2",
        "train.validation_chains=6",
        "train.validate_every_steps=1",
    ]


def progress() -> StageProgress:
    return StageProgress("sweep", None, None)


def overrides(section: dict[str, Any]) -> list[str]:
    """Settings of `sweep` as overrides of a run file."""
    return [f"sweep.{key}={json.dumps(value)}" for key, value in section.items()]


def kill_the_trial_after_a_checkpoint(folder: Path, over: Event) -> None:
    """SIGKILL the process of the trial that runs, once Ray Train has taken note of a checkpoint.

    over: set when the sweep has ended
    """
    notes = "checkpoints/*/checkpoint_manager_snapshot.json"
    while not any(CHECKPOINT in note.read_text() for note in folder.glob(notes)):
        assert not over.wait(0.05), "the sweep was over before"
    assert not (folder / "outcome.json").exists()
    killed = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ImplicitFunc" in " ".join(process.cmdline()):
                process.kill()
                killed += 1
    assert killed == 1


def start_and_kill(options: list[str], section: dict[str, Any], trials: Path) -> None:
    """Run `steper sweep`; SIGKILL it with all its processes when its third trial has begun."""
    arguments = ["sweep", "--config", str(TOY_RUN_FILE)]
    for text in [*options, *overrides(section)]:
        arguments += ["--set", text]
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as ray:
        process = subprocess.Popen(
            [sys.executable, "-m", "steper_ray.cli", *arguments],
            env={**os.environ, "RAY_TMPDIR": ray},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (trials / "0003" / "point.json").exists():
            assert process.poll() is None
            time.sleep(0.05)
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
        for left in family:
            with suppress(psutil.NoSuchProcess):
                left.kill()
        process.wait()
        psutil.wait_procs(family, timeout=30)


def stamps_in(folder: Path) -> dict[Path, int]:
    """When each file of a folder was written; without locks."""
    files = (file for file in folder.rglob("*") if file.suffix not in (".lock", ".lease"))
    return {file: file.stat().st_mtime_ns for file in files if file.is_file()}


def test_a_sweep_that_is_killed_twice_repeats_nothing_and_its_best_run_file_gives_the_same(
    ray_cluster: None, options: list[str], tmp_path: Path
) -> None:
    """First with its whole command; then its last trial's process, which resumes from a checkpoint.

    At the end it goes on with one trial more.
    """
    pytest.importorskip("optuna")
    section = {
        "parameters": {"lr": {"log": [1e-4, 1e-2]}, "sigma_init": {"choice": [0.5, 2.0]}},
        "scheduler": "none",
        "search": "optuna",
        "trials": 3,
    }
    config = load_config(TOY_RUN_FILE, [*options, *overrides(section)])
    trials = sweep_folder(config) / "trials"
    start_and_kill(options, section, trials)
    before = {file: file.stat().st_mtime_ns for file in trials.glob("*/outcome.json")}
    assert before
    assert not (trials / "0003" / "outcome.json").exists()
    proposed = {file: file.read_text() for file in trials.glob("*/point.json")}

    over = Event()
    with ThreadPoolExecutor() as pool:
        unfinished = [path for path in trials.iterdir() if path / "outcome.json" not in before]
        killed = pool.submit(kill_the_trial_after_a_checkpoint, trials / "0003", over)
        try:
            swept = sweep(config, progress(), train_student)
        finally:
            over.set()
        killed.result()
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert {file: file.read_text() for file in proposed} == proposed
    for folder in unfinished:
        lines = (folder / "training" / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(one)["step"] for one in lines] == list(range(1, len(lines) + 1))
    assert [trial.status for trial in swept.trials] == ["finished"] * 3
    assert len({trial.point["lr"] for trial in swept.trials}) == 3
    assert swept.best is not None
    table = pd.read_parquet(config.folder.sweep / "trials.parquet")
    assert table["loss"].idxmin() + 1 == swept.best.number
    means = table[["L_init", "L_exp", "L_agg"]].mean(axis=1)
    assert list(means) == pytest.approx(list(table["loss"]))
    # σ moves towards √L, which lies above both: from its own start, at most sigma_lr in log a step
    assert (table["final_sigma_exp"] > table["sigma_init"]).all()
    assert pd.read_csv(config.folder.sweep / "trials.csv")["lr"].tolist() == table["lr"].tolist()
    students = list((config.folder.sweep / "runs").glob("*/trials/*/student"))
    assert [path.parent.name for path in students] == [f"{swept.best.number:04d}"]
    assert len(list(config.folder.prepared.iterdir())) == 1, "all trials share their training data"
    assert not list(config.folder.sweep.rglob("*.partial*"))
    stamps = stamps_in(trials)
    assert sweep(config, progress(), train_student).best == swept.best
    assert stamps_in(trials) == stamps

    more = load_config(TOY_RUN_FILE, [*options, *overrides({**section, "trials": 4})])
    swept = sweep(more, progress(), train_student)
    assert [trial.status for trial in swept.trials] == ["finished"] * 4
    assert len({trial.point["lr"] for trial in swept.trials}) == 4
    assert len(pd.read_parquet(config.folder.sweep / "trials.parquet")) == 4
    kept = {
        file: stamp
        for file, stamp in stamps.items()
        if not any(part.startswith("student") for part in file.parts)
    }
    assert stamps_in(trials).items() >= kept.items()
    assert swept.best is not None

    file = config.folder.sweep / "best.yaml"
    assert "sweep" not in yaml.safe_load(file.read_text())
    its_own = load_config(file)
    stamps = stamps_in(its_own.folder.root)
    found = train_student(its_own)  # its own folder has the student already
    assert stamps_in(its_own.folder.root) == stamps
    again = train_student(load_config(file, [f"run.dir={tmp_path / 'again'}"]))
    assert again.validation_loss == pytest.approx(swept.best.metric, rel=1e-5)
    assert found.validation_loss == swept.best.metric


def test_asha_stops_a_bad_learning_rate_and_a_diverged_trial_is_marked(
    ray_cluster: None, options: list[str]
) -> None:
    """A worker takes the whole cluster, so that a place not given back would end the sweep."""
    section = {
        "parameters": {"lr": {"choice": [4e-3, 1.0, 1e38]}},
        "search": "grid",
        "scheduler": "asha",
        "asha_factor": 2,
        "concurrent": 1,
    }
    config = load_config(TOY_RUN_FILE, [*options, "train.cpus_per_worker=2", *overrides(section)])
    swept = sweep(config, progress(), train_student)
    good, bad, broken = swept.trials
    assert good.status == "finished"
    assert bad.status == "stopped"
    assert bad.step < 4
    assert broken.status == "diverged"
    assert broken.error is not None
    assert "lower train.lr" in broken.error
    assert len(list((broken.folder / "logs" / "train").glob("20*"))) == 1, "it was tried again"
    assert swept.best == good
    assert sweep(config, progress(), train_student).trials == swept.trials
    assert not (bad.folder / "training" / "candidates").exists()
