"""Sweeps with real trials of a tiny student: whole, killed and restored, stopped early, failed."""

import json
import os
import signal
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
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.sweep.sweep import sweep, sweep_folder

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


def with_sweep(options: list[str], section: dict[str, Any]) -> RunConfig:
    text = [f"sweep.{key}={json.dumps(value)}" for key, value in section.items()]
    return load_config(TOY_RUN_FILE, [*options, *text])


def kill_trials_after_a_checkpoint(first: Path, over: Event) -> str:
    """SIGKILL the processes of all trials once the first has two checkpoints; its first line of metrics.

    over: set when the sweep has ended
    """
    notes = "checkpoints/*/checkpoint_manager_snapshot.json"
    while not any("checkpoint_2" in note.read_text() for note in first.glob(notes)):
        assert not over.wait(0.05), "the sweep was over before"
    assert not (first / "outcome.json").exists()
    line = (first / "training" / "metrics.jsonl").read_text().split("\n")[0]
    killed = 0
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "ImplicitFunc" in " ".join(process.cmdline()):
                process.kill()
                killed += 1
    assert killed
    return line


def stamps_in(folder: Path) -> dict[Path, int]:
    """When each file of a folder was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_a_sweep_end_to_end_and_its_best_run_file_gives_the_same(
    ray_cluster: None, options: list[str], tmp_path: Path
) -> None:
    """Its first trials are killed on the way, and go on from their checkpoints."""
    parameters = {"lr": {"choice": [1e-4, 1e-2]}, "sigma_init": {"choice": [0.5, 2.0]}}
    config = with_sweep(options, {"parameters": parameters, "search": "grid", "scheduler": "none"})
    first = sweep_folder(config) / "trials" / "0001"
    over = Event()
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_trials_after_a_checkpoint, first, over)
        try:
            swept = sweep(config, progress(), train_student)
        finally:
            over.set()
        line = killed.result()
    lines = (first / "training" / "metrics.jsonl").read_text().splitlines()
    assert lines[0] == line  # with its seconds: the step was not done again
    assert [json.loads(one)["step"] for one in lines] == list(range(1, len(lines) + 1))
    assert [trial.status for trial in swept.trials] == ["finished"] * 4
    assert swept.best is not None
    assert [trial.point for trial in swept.trials] == [
        {"lr": lr, "sigma_init": sigma} for lr in (1e-4, 1e-2) for sigma in (0.5, 2.0)
    ]
    table = pd.read_parquet(config.folder.sweep / "trials.parquet")
    assert table["loss"].idxmin() + 1 == swept.best.number
    assert swept.best.point["lr"] == 1e-2
    means = table[["L_init", "L_exp", "L_agg"]].mean(axis=1)
    assert list(means) == pytest.approx(list(table["loss"]))
    # σ moves towards √L, which lies above both: from its own start, at most sigma_lr in log a step
    assert (table["final_sigma_exp"] > table["sigma_init"]).all()
    assert pd.read_csv(config.folder.sweep / "trials.csv")["lr"].tolist() == table["lr"].tolist()
    students = list((config.folder.sweep / "runs").glob("*/trials/*/student"))
    assert [path.parent.name for path in students] == [f"{swept.best.number:04d}"]
    assert len(list((config.folder.sweep / "runs").glob("*/data/*.parquet"))) == 1
    assert not list(config.folder.sweep.rglob("*.partial*"))

    file = config.folder.sweep / "best.yaml"
    assert "sweep" not in yaml.safe_load(file.read_text())
    its_own = load_config(file)
    stamps = stamps_in(its_own.folder.root)
    found = train_student(its_own)  # its own folder has the student already
    assert stamps_in(its_own.folder.root) == stamps
    again = train_student(load_config(file, [f"run.dir={tmp_path / 'again'}"]))
    assert again.validation_loss == pytest.approx(swept.best.metric, rel=1e-5)
    assert found.validation_loss == swept.best.metric


def test_a_killed_sweep_goes_on_and_repeats_nothing(ray_cluster: None, options: list[str]) -> None:
    section = {
        "parameters": {"lr": {"log": [1e-3, 1e-2]}},
        "scheduler": "none",
        "trials": 2,
        "concurrent": 1,
    }
    config = with_sweep(options, section)
    arguments = ["sweep", "--config", str(TOY_RUN_FILE)]
    for text in options:
        arguments += ["--set", text]
    for key, value in section.items():
        arguments += ["--set", f"sweep.{key}={json.dumps(value)}"]
    folder = sweep_folder(config) / "trials"
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as ray:
        process = subprocess.Popen(
            [sys.executable, "-m", "steper_ray.cli", *arguments],
            env={**os.environ, "RAY_TMPDIR": ray},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not (folder / "0002" / "point.json").exists():
            assert process.poll() is None
            time.sleep(0.2)
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGKILL)
        process.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        for left in alive:
            left.kill()
    stamp = (folder / "0001" / "outcome.json").stat().st_mtime_ns
    swept = sweep(config, progress(), train_student)
    assert [trial.status for trial in swept.trials] == ["finished"] * 2
    assert (folder / "0001" / "outcome.json").stat().st_mtime_ns == stamp
    assert len({trial.point["lr"] for trial in swept.trials}) == 2
    stamps = stamps_in(folder)
    assert sweep(config, progress(), train_student).best == swept.best
    assert stamps_in(folder) == stamps


def test_asha_stops_a_bad_learning_rate_and_a_failed_trial_is_marked(
    ray_cluster: None, options: list[str]
) -> None:
    """A worker takes the whole cluster, so that a place not given back would end the sweep."""
    config = with_sweep(
        [*options, "train.cpus_per_worker=2"],
        {
            "parameters": {"lr": {"choice": [4e-3, 1.0, 1e38]}},
            "search": "grid",
            "scheduler": "asha",
            "asha_factor": 2,
            "max_restarts": 0,
            "concurrent": 1,
        },
    )
    swept = sweep(config, progress(), train_student)
    good, bad, broken = swept.trials
    assert good.status == "finished"
    assert bad.status == "stopped"
    assert bad.step < 4
    assert broken.status == "failed"
    assert broken.error is not None
    assert "lower train.lr" in broken.error
    assert swept.best == good
    assert not (bad.folder / "training" / "candidates").exists()
