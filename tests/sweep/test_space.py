"""The space of a sweep: points, what they become, and what is refused."""

import json
import math
from typing import Any

import pytest

from steper_ray.cli import TOY_RUN_FILE
from steper_ray.errors import ConfigError
from steper_ray.run.loading import load_config
from steper_ray.sweep.settings import SweepConfig
from steper_ray.sweep.space import (
    applied,
    check_space,
    chosen,
    data_settings,
    optuna_space,
    points,
    resolved,
    takes_whole,
)
from steper_ray.training.settings import TrainConfig

TRAIN = TrainConfig(validation_chains=10)


def space(parameters: dict[str, Any], **more: Any) -> SweepConfig:
    return SweepConfig.model_validate({"parameters": parameters, **more})


def test_a_point_is_laid_over_the_train_section() -> None:
    train = applied(TRAIN, {"sigma_init.exp": 0.5, "sigma_init": 2, "lr": "1e-3", "lora.rank": 4})
    assert train.sigma_init == (2, 0.5, 2)
    assert train.lr == 1e-3
    assert train.lora is not None
    assert (train.lora.rank, train.lora.alpha) == (4, 32.0)
    assert applied(TRAIN, {"sigma_init": [1, 2, 3]}).sigma_init == (1, 2, 3)
    assert applied(TRAIN, {"deepspeed.zero_optimization": {"a": 1}}).deepspeed == {
        "zero_optimization": {"a": 1}
    }


def test_a_section_as_a_whole_is_a_value_that_can_be_written() -> None:
    point = resolved(TRAIN, {"lora": {"rank": 4}})
    assert json.loads(json.dumps(point))["lora"]["rank"] == 4
    assert resolved(TRAIN, {"lora": None}) == {"lora": None}


def test_a_grid_has_every_combination_in_order() -> None:
    sweep = space({"lr": {"choice": ["1e-3", 0.01]}, "epochs": {"choice": [1, 2]}}, search="grid")
    assert points(sweep, TRAIN, 0) == [
        {"lr": 0.001, "epochs": 1},
        {"lr": 0.001, "epochs": 2},
        {"lr": 0.01, "epochs": 1},
        {"lr": 0.01, "epochs": 2},
    ]


def test_random_points_depend_on_the_seed_alone_and_stay_within() -> None:
    sweep = space(
        {
            "lr": {"log": [1e-5, 1e-1]},
            "sigma_init": {"range": [1, 3]},
            "epochs": {"log": [1, 16]},
            "objective": {"choice": ["difficulty", "uniform"]},
        },
        trials=400,
    )
    drawn = points(sweep, TRAIN, 3)
    assert drawn == points(sweep, TRAIN, 3)
    assert drawn != points(sweep, TRAIN, 4)
    assert all(1e-5 <= point["lr"] <= 0.1 for point in drawn)
    below = sum(point["lr"] < 1e-3 for point in drawn)  # half of a logarithmic range
    assert 150 < below < 250
    assert any(not float(point["sigma_init"]).is_integer() for point in drawn)
    assert {type(point["epochs"]) for point in drawn} == {int}
    assert {1, 2, 16} <= {point["epochs"] for point in drawn}
    assert (
        points(space({"lr": {"log": [1e-5, 1e-1]}}, trials=5), TRAIN, 3)
        == points(space({"lr": {"log": [1e-5, 1e-1]}}, trials=9), TRAIN, 3)[:5]
    )


def test_whole_numbers_are_those_of_keys_that_take_no_others() -> None:
    sweep = space(
        {
            "epochs": {"range": [1, 3]},
            "sigma_init": {"range": [1, 3]},
            "lora.rank": {"log": [4, 64]},
        }
    )
    found = {key: takes_whole(TRAIN, key, p) for key, p in sweep.parameters.items()}
    assert found == {"epochs": True, "sigma_init": False, "lora.rank": True}


def test_optuna_has_the_same_space() -> None:
    pytest.importorskip("optuna")
    sweep = space(
        {
            "lr": {"log": [1e-4, 1e-2]},
            "epochs": {"range": [1, 3]},
            "sigma_init": {"choice": [1, [1, 2, 3]]},
        }
    )
    distributions = optuna_space(sweep, TRAIN)
    assert (distributions["lr"].low, distributions["lr"].high, distributions["lr"].log) == (
        1e-4,
        1e-2,
        True,
    )
    assert type(distributions["epochs"]).__name__ == "IntDistribution"
    point = chosen(sweep, {"lr": 1e-3, "epochs": 2, "sigma_init": 1})
    assert resolved(TRAIN, point) == {"lr": 1e-3, "epochs": 2, "sigma_init": [1.0, 2.0, 3.0]}


def test_examples_are_prepared_once_for_each_setting_of_the_data() -> None:
    sweep = space(
        {
            "lr": {"choice": [1e-3, 1e-2]},
            "objective": {"choice": ["difficulty", "uniform", "vanilla-kd"]},
            "abilities": {"choice": [["init", "exp", "agg"], ["init", "exp"]]},
        },
        metric="em",
    )
    found = {(s.objective == "vanilla-kd", s.abilities) for s in data_settings(sweep, TRAIN)}
    assert len(data_settings(sweep, TRAIN)) == 3
    assert {whole for whole, _ in found} == {True, False}
    assert len(data_settings(space({"lr": {"choice": [1.0, 2.0]}}), TRAIN)) == 1


@pytest.mark.parametrize(
    ("parameters", "more", "said"),
    [
        ({}, {}, "sweep.parameters: nothing to try"),
        ({"sigma_rate": {"choice": [1]}}, {}, "no key of the train section; did you mean"),
        ({"lrr": {"choice": [1]}}, {}, "sweep.parameters.lrr: no key of the train section"),
        ({"sigma_init.expp": {"choice": [1]}}, {}, "there are init, exp, agg"),
        ({"lr.x": {"choice": [1]}}, {}, "train.lr has no keys within"),
        ({"workers": {"choice": [1, 2]}}, {}, "is the same for all trials"),
        ({"validation_chains": {"choice": [1, 2]}}, {}, "is the same for all trials"),
        ({"lr": {"choice": [0.1, -1]}}, {}, "lr -1: must be greater than 0"),
        ({"sigma_init": {"range": [0.01, 1]}}, {}, "between sigma_min and sigma_max"),
        ({"abilities": {"choice": [["init"]]}}, {}, "different abilities do not compare"),
        ({"objective": {"choice": ["uniform", "vanilla-kd"]}}, {}, "do not compare"),
        ({"epochs": {"choice": [1, 2]}}, {"scheduler": "asha"}, "take sweep.scheduler: none"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    parameters: dict[str, Any], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        check_space(space(parameters, **more), TRAIN)
    assert "\n" not in str(caught.value)


def test_a_loss_that_no_trial_reports_is_refused() -> None:
    sweep = space({"lr": {"choice": [0.1]}})
    with pytest.raises(ConfigError, match=r"no trial reports .* train\.validation_chains is 0"):
        check_space(sweep, TrainConfig())
    check_space(space({"lr": {"choice": [0.1]}}, metric="em"), TrainConfig())


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("sweep.parameters={lr: {range: [2, 1]}}", "lr: the range from 2 to 1 is empty"),
        ("sweep.parameters={lr: {log: [0, 1]}}", "lr: log takes numbers above 0 only"),
        ("sweep.parameters={lr: {choice: []}}", "lr: choice is empty"),
        ("sweep.parameters={lr: {choice: [1, 1]}}", "lr: choice has a value twice"),
        ("sweep.parameters={lr: {}}", "exactly one of choice, range and log, not none"),
        ("sweep.parameters={lr: {grid: [1]}}", "unknown key"),
        ("sweep.metric=accuracy", "sweep.metric"),
        ("sweep.metric=em; sweep.scheduler=asha", "known only at the end; take metric: loss"),
        (
            "sweep.search=grid; sweep.parameters.lr.log=[1,2]",
            "search grid needs a choice for lr",
        ),
    ],
)
def test_a_run_file_with_an_impossible_sweep_is_refused(override: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(TOY_RUN_FILE, override.split("; "))
    assert "\n" not in str(caught.value)


def test_a_single_value_of_a_logarithmic_range_is_within_it() -> None:
    low = math.nextafter(1e-3, 0)
    (point,) = points(space({"lr": {"log": [low, 1e-3]}}, trials=1), TRAIN, 0)
    assert low <= point["lr"] <= 1e-3
