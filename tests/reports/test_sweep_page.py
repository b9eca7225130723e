"""The page, the tables and the choice of the best, from folders as trials leave them."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.reports.sweep_page import headline, meeting_line, rung_counts, write_sweep_page
from steper_ray.run.config import RunConfig
from steper_ray.run.loading import load_config
from steper_ray.selection.abilities import STEPER
from steper_ray.sweep.live_table import live_table
from steper_ray.sweep.trial_files import Trial, best_trial, keep_best_student, read_trials
from steper_ray.sweep.trial_table import write_tables


def lines(
    losses: list[float], sigma: float, steps: int, abilities: Sequence[str] = STEPER.names
) -> list[dict[str, Any]]:
    """A training in which every step is validated and σ goes from `sigma` half way to its rest."""
    rows = []
    for step, loss in enumerate(losses, 1):
        now = sigma + (math.sqrt(loss) - sigma) * step / len(losses) / 2
        row: dict[str, Any] = {"step": step, "steps": steps, "seconds": 2.0}
        row |= {"validation_loss": loss}
        for ability in abilities:
            row |= {f"validation_{ability}": loss, f"L_{ability}": loss, f"sigma_{ability}": now}
        rows.append(row)
    return rows


def leave(folder: Path, number: int, point: dict[str, Any], rows: list[dict[str, Any]]) -> Path:
    place = folder / f"{number:04d}"
    (place / "training").mkdir(parents=True)
    (place / "student").mkdir()
    (place / "point.json").write_text(json.dumps({"number": number, "point": point}))
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (place / "training" / "metrics.jsonl").write_text(text + '{"step": 9')  # on its way
    return place


def write(config: RunConfig, trials: list[Trial], best: Trial | None) -> None:
    write_sweep_page(
        config.folder.sweep / "sweep.html",
        title=f"steper_ray: {config.folder.root.name}, a sweep",
        section=config.sweep,
        train=config.train,
        trials=trials,
        best=best,
    )


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    parameters = "{lr: {log: [1.0e-4, 1.0e-2]}, sigma_init: {choice: [0.5, [1, 2, 3]]}}"
    return load_config(
        TOY_RUN_FILE,
        [f"run.dir={tmp_path}", f"sweep.parameters={parameters}", "sweep.scheduler=asha"],
    )


@pytest.fixture
def folder(config: RunConfig) -> Path:
    folder = config.folder.sweep / "runs" / "x" / "trials"
    two = leave(folder, 1, {"lr": 1e-3, "sigma_init": 0.5}, lines([4.0, 2.0, 1.0, 1.0], 0.5, 4))
    one = leave(
        folder, 2, {"lr": 2e-3, "sigma_init": [1, 2, 3]}, lines([4.0, 1.0, 0.25, 0.5], 1, 4)
    )
    for place, metric in ((two, 1.0), (one, 0.25)):
        (place / "outcome.json").write_text(json.dumps({"metric": metric, "seconds": 11.0}))
    bad = leave(folder, 3, {"lr": 1e-2, "sigma_init": 0.5}, lines([9.0], 0.5, 4))
    (bad / "stopped.json").write_text("{}")
    broken = leave(folder, 4, {"lr": 5e-3, "sigma_init": 0.5}, [])
    (broken / "error.json").write_text(json.dumps({"error": "the loss of step 1 is <nan>"}))
    return folder


def test_trials_are_read_from_their_folders(folder: Path) -> None:
    trials = read_trials(folder, "loss")
    assert [trial.status for trial in trials] == ["finished", "finished", "stopped", "failed"]
    assert [trial.metric for trial in trials] == [1.0, 0.25, 9.0, None]
    assert [trial.seconds for trial in trials] == [11.0, 11.0, 2.0, 0]
    assert trials[1].loss == dict.fromkeys(STEPER.names, 0.25)
    assert trials[1].step == 4
    assert trials[3].error == "the loss of step 1 is <nan>"


def test_the_best_is_a_finished_one_and_its_student_alone_stays(folder: Path) -> None:
    trials = read_trials(folder, "loss")
    assert best_trial(trials, "loss") is trials[1]
    assert best_trial(trials, "em") is trials[0]
    assert best_trial(trials[2:], "loss") is None
    keep_best_student(folder, "loss")
    assert [(folder / f"000{n}" / "student").exists() for n in (1, 2)] == [False, True]


def test_tables_have_every_trial(folder: Path, config: RunConfig) -> None:
    write_tables(config.folder.sweep, read_trials(folder, "loss"), "loss")
    table = pd.read_parquet(config.folder.sweep / "trials.parquet")
    assert table["trial"].tolist() == [1, 2, 3, 4]
    assert table["sigma_init"].tolist() == ["0.5", "[1, 2, 3]", "0.5", "0.5"]
    assert table["lr"].tolist() == [1e-3, 2e-3, 1e-2, 5e-3]
    assert table["error"][3] == "the loss of step 1 is <nan>"
    assert pd.isna(table["loss"][3])
    again = pd.read_csv(config.folder.sweep / "trials.csv")
    assert again["status"].tolist() == table["status"].tolist()


def test_the_page_has_every_chart_and_escapes_errors(folder: Path, config: RunConfig) -> None:
    trials = read_trials(folder, "loss")
    write(config, trials, best_trial(trials, "loss"))
    page = (config.folder.sweep / "sweep.html").read_text()
    assert page.count("<svg") == 1 + 2 + 3 + 1  # parallel, by setting, σ of each ability, rungs
    assert "&lt;nan&gt;" in page
    assert "<nan>" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    write(config, trials, best_trial(trials, "loss"))
    assert (config.folder.sweep / "sweep.html").read_text() == page


def test_a_page_without_a_finished_trial(folder: Path, config: RunConfig) -> None:
    write(config, read_trials(folder, "loss")[3:], None)
    assert "None of 1 trials finished." in (config.folder.sweep / "sweep.html").read_text()


def test_rungs_and_rest_in_numbers(folder: Path, config: RunConfig) -> None:
    trials: list[Trial] = read_trials(folder, "loss")
    assert rung_counts(config.sweep, config.train, trials) == [
        "validation 1: 3 arrived, 1 stopped",
        "validation 3: 2 arrived, 0 stopped",
    ]
    # Trial 1: σ = 0.5 + 0.5/2 over √mean(4, 2, 1, 1); trial 2: σ = 1 + (√0.5 − 1)/2 over √1.4375.
    assert f"exp {0.75 / math.sqrt(2):.2f} to {0.853553 / math.sqrt(1.4375):.2f}" in meeting_line(
        trials
    )
    assert headline(config.sweep, trials, trials[1]) == (
        "Trial 2 is the best: lr 0.002, sigma_init 1, 2, 3, validation loss 0.25."
    )


def test_tables_and_page_have_the_abilities_of_the_metrics(config: RunConfig) -> None:
    folder = config.folder.sweep / "runs" / "x" / "trials"
    rows = lines([4.0, 2.0, 1.0], 0.5, 3, ("init", "exp", "check", "agg"))
    place = leave(folder, 1, {"lr": 1e-3, "sigma_init": 0.5}, rows)
    (place / "outcome.json").write_text(json.dumps({"metric": 1.0, "seconds": 3.0}))
    trials = read_trials(folder, "loss")
    assert list(trials[0].sigma) == ["init", "exp", "check", "agg"]
    write_tables(config.folder.sweep, trials, "loss")
    table = pd.read_parquet(config.folder.sweep / "trials.parquet")
    assert table["L_check"].tolist() == [1.0]
    assert table["final_sigma_check"].tolist() == [0.75]  # half way from 0.5 to √1
    write(config, trials, trials[0])
    page = (config.folder.sweep / "sweep.html").read_text()
    assert "Sigma of check in 1 trials" in page
    assert '<th scope="col">σ check</th>' in page
    head, row = live_table(trials, config.sweep)
    assert head[-4:] == ["σ init", "exp", "check", "agg"]
    assert row[0][-4:] == ["0.75"] * 4
