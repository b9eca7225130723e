"""What a training is said to take, against hand-worked numbers and against what it then took."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest

from steper_ray.pipeline.training import forecast_training, train_student
from steper_ray.planning.training import forecast_lines
from steper_ray.run.config import RunConfig
from steper_ray.toy.asking import REASONING
from steper_ray.training.dry_run import (
    measured_steps,
    state_bytes,
    waiting_share,
    weight_variation,
)
from steper_ray.training.rank_data import RankData
from steper_ray.training.worker_spec import WorkerTask
from tests.tiny_model import save_tiny_model
from tests.training.one_rank import prepared


@pytest.mark.parametrize(
    ("stage", "bf16", "expected"),
    [
        (0, False, 4 + 4 + 8),
        (1, True, 2 + 4 + 12 / 4),
        (2, True, 2 + 16 / 4),
        (3, True, 18 / 4),
        (3, False, 20 / 4),
    ],
)
def test_bytes_of_a_parameter_are_those_of_the_documented_table(stage, bf16, expected) -> None:
    assert state_bytes(stage, trained=1000, frozen=0, workers=4, bf16=bf16) == 1000 * expected


def test_a_frozen_parameter_is_a_weight_alone() -> None:
    values: dict[str, Any] = {"trained": 0, "frozen": 1000, "workers": 4, "bf16": True}
    assert [state_bytes(stage, **values) for stage in (1, 2, 3)] == [2000, 2000, 500]


def test_workers_wait_for_the_longest_micro_batch_of_each_turn(
    task: WorkerTask, tmp_path: Path, write_stepwise
) -> None:
    write_stepwise(tmp_path, [1, 4])
    data = RankData(prepared(task), rank=0, ranks=2, packed=True)
    short, long = sorted(data.stored.unit_lengths(data.chains, packed=True))
    assert waiting_share(data) == pytest.approx(1 - (short + long) / (2 * long))
    assert measured_steps(data) == [0, 0]


def test_weights_vary_with_the_examples_of_each_ability_in_a_batch(
    task: WorkerTask, tmp_path: Path, write_stepwise
) -> None:
    """One chain a batch: its exp examples weigh 1 / their number, of which there are 1 and 2."""
    write_stepwise(tmp_path, [3, 4])
    data = RankData(prepared(task), rank=0, ranks=1, packed=True)
    # init and agg: 1 each time; exp: 1, 1/2, 1/2 about their mean 2/3, so 3/2, 3/4, 3/4
    values = [1.0, 1.0, 1.0, 1.0, 1.5, 0.75, 0.75]
    assert weight_variation(data, 1, "batch") == pytest.approx(statistics.pstdev(values))
    assert weight_variation(data, 1, "expected") == pytest.approx(0, abs=1e-9)
    assert weight_variation(data, 2, "batch") == pytest.approx(0, abs=1e-9)


@pytest.mark.usefixtures("ray_cluster")
def test_the_memory_of_a_training_is_predicted(tmp_path: Path, write_stepwise) -> None:
    hops = [2, 3, 4, 1, 2, 3]
    write_stepwise(tmp_path, hops)
    model = save_tiny_model(tmp_path / "model", hidden_size=768)
    values: dict[str, Any] = {
        "run": {"dir": str(tmp_path)},
        "reasoning": REASONING,
        "train": {
            "model": str(model),
            "epochs": 1,
            "chains_per_batch": 3,
            "micro_batch_tokens": 600,
            "abilities": ["init", "agg"],
            "trackers": [],
        },
    }
    config = RunConfig.model_validate(values)
    forecast = forecast_training(config)
    assert not config.folder.student.exists()
    assert not list(config.folder.checkpoints.iterdir())
    lines = "\n".join(forecast_lines(forecast, config.train))
    assert (forecast.chains, forecast.steps, forecast.other_examples) == (6, 2, 4)
    assert "examples: init 5, exp 0, agg 6; 4 not used (train.abilities" in lines
    assert "(2 steps measured)" in lines
    assert forecast.probe.checkpoint_bytes > 12 * forecast.probe.trained_parameters

    values["train"]["zero_stage"] = 1
    train_student(RunConfig.model_validate(values))
    rows = config.folder.metrics.read_text(encoding="utf-8").splitlines()
    peak = json.loads(rows[-1])["peak_memory_gib"] * 2**30
    assert forecast.stage_bytes[1] == pytest.approx(peak, rel=0.2)
    assert forecast.stage_bytes[3] == forecast.probe.peak_bytes
    assert forecast.stage_bytes[2] != forecast.stage_bytes[1] != forecast.stage_bytes[3]
