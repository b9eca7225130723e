"""The space of a sweep: its keys, its points, and the train section of a point.

The points of a grid and of a random search are drawn and checked before the first trial, and depend on the
seed alone. A point is a value for each key, as the train section holds it after validation, so `1e-3` in
the run file and 0.001 are the same.
"""

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from steper_ray.errors import ConfigError
from steper_ray.run.keys import CHECKPOINT_KEYS, EXCLUDED
from steper_ray.run.section import did_you_mean, first_reason
from steper_ray.selection.abilities import STEPER
from steper_ray.training.objective import objective_named
from steper_ray.training.settings import TrainConfig

if TYPE_CHECKING:
    from steper_ray.sweep.settings import Parameter, SweepConfig


Point = dict[str, Any]


FIXED: Final = {
    *EXCLUDED["train"],
    *CHECKPOINT_KEYS,
    "best_by",
    "mix",
    "validate_every_steps",
    "validation_chains",
}
"""Keys that all trials share: the student does not depend on them, or the comparison of trials does."""


ABILITIES: Final = STEPER.names
"""Abilities that a key may name, as `sigma_init.exp`."""


PER_ABILITY: Final = ("sigma_init", "fixed_weights")
"""Keys with a value for each ability."""


def applied(train: TrainConfig, point: Mapping[str, Any]) -> TrainConfig:
    """The train section with a point's values; `sigma_init` is set before `sigma_init.exp`.

    Raises pydantic's ValidationError for values that it cannot have.
    """
    values = train.model_dump()
    for key in sorted(point, key=lambda key: key.count(".")):
        _set(values, key, point[key])
    return type(train).model_validate(values)


def _set(values: dict[str, Any], key: str, value: Any) -> None:
    first, *rest = key.split(".")
    if first in PER_ABILITY:
        value_A = list(values[first])
        if rest:
            value_A[ABILITIES.index(rest[0])] = value
        else:
            value_A = list(value) if isinstance(value, list | tuple) else [value] * len(value_A)
        values[first] = tuple(value_A)
        return
    target = values
    for part in (first, *rest)[:-1]:
        target[part] = dict(target[part] or {})
        target = target[part]
    target[key.split(".")[-1]] = value


def value_of(train: TrainConfig, key: str) -> Any:
    """The value of a train section under a key of the space; equal values of all abilities as one."""
    first, *rest = key.split(".")
    value: Any = getattr(train, first)
    if first in PER_ABILITY:
        if rest:
            return value[ABILITIES.index(rest[0])]
        return value[0] if len(set(value)) == 1 else list(value)
    for part in rest:
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    return list(value) if isinstance(value, tuple) else value


def check_space(sweep: "SweepConfig", train: TrainConfig) -> None:
    """Raises ConfigError for an unknown key, an invalid value, or trials whose scores do not compare."""
    if not sweep.parameters:
        raise ConfigError(
            "sweep.parameters: nothing to try; give keys of the train section with their values, such as "
            "{lr: {log: [1.0e-6, 1.0e-4]}}"
        )
    for key, parameter in sweep.parameters.items():
        _check_key(key)
        for value in parameter.choice or parameter.bounds:
            _check_point(train, {key: value})
    if not isinstance(train.workers, int):
        raise ConfigError(
            f"train.workers: a sweep reserves the same room for every trial; give one number, such as "
            f"{train.max_workers}"
        )
    if sweep.scheduler == "asha" and "epochs" in sweep.parameters:
        raise ConfigError(
            "sweep.parameters.epochs: ASHA stops trials by their loss after the same amount of data, when "
            "the learning rate of a longer trial is still high and that of a shorter one already low; take "
            "sweep.scheduler: none, or the same train.epochs for all trials"
        )
    if sweep.metric != "loss":
        return
    if not train.validation_chains:
        raise ConfigError(
            "sweep.metric: no trial reports a validation loss, train.validation_chains is 0; hold some "
            "chains out, or take metric: em"
        )
    objectives = sweep.parameters.get("objective")
    choice = objectives.choice or () if objectives is not None else ()
    whole_paths = [name for name in choice if objective_named(name).whole_path]
    incomparable = {"model": "models", "abilities": "abilities"}
    if whole_paths:
        incomparable["objective"] = f"objectives, {whole_paths[0]} among them,"
    for key, kinds in incomparable.items():
        if key in sweep.parameters:
            raise ConfigError(
                f"sweep.parameters.{key}: validation losses of different {kinds} do not compare; take "
                "sweep.metric: em"
            )


def _check_key(key: str) -> None:
    where = f"sweep.parameters.{key}"
    first, *rest = key.split(".")
    fields = TrainConfig.model_fields
    if first not in fields:
        hint = did_you_mean(first, fields) or f"there are {', '.join(sorted(fields))}"
        raise ConfigError(f"{where}: no key of the train section; {hint}")
    if first in FIXED:
        raise ConfigError(
            f"{where}: is the same for all trials: what is learned does not depend on it, or the trials "
            "would not compare; set it in the train section"
        )
    if first in PER_ABILITY and rest and (len(rest) > 1 or rest[0] not in ABILITIES):
        raise ConfigError(f"{where}: no such ability; there are {', '.join(ABILITIES)}")
    if rest and first not in (*PER_ABILITY, "lora", "deepspeed"):
        raise ConfigError(f"{where}: train.{first} has no keys within")


def _check_point(train: TrainConfig, point: Point) -> TrainConfig:
    try:
        settings = applied(train, point)
    except ValidationError as error:
        shown = ", ".join(f"{key} {value!r}" for key, value in point.items())
        raise ConfigError(f"sweep.parameters: {shown}: {first_reason(error)}") from None
    objective_named(settings.objective)
    return settings


def points(sweep: "SweepConfig", train: TrainConfig, seed: int) -> list[Point]:
    """All points of a grid or a random search, in order, checked."""
    if sweep.search == "grid":
        choices = [parameter.choice or () for parameter in sweep.parameters.values()]
        drawn = [
            dict(zip(sweep.parameters, values, strict=True))
            for values in itertools.product(*choices)
        ]
    else:
        rng = random.Random(f"sweep {seed}")
        whole = {key: takes_whole(train, key, p) for key, p in sweep.parameters.items()}
        drawn = [
            {key: _draw(rng, p, whole=whole[key]) for key, p in sweep.parameters.items()}
            for _ in range(sweep.trials)
        ]
    return [resolved(train, point) for point in drawn]


def resolved(train: TrainConfig, point: Mapping[str, Any]) -> Point:
    """The point with its values as the train section holds them."""
    section = _check_point(train, dict(point))
    overlapping = {key.split(".")[0] for key in point if "." in key}
    return {key: point[key] if key in overlapping else value_of(section, key) for key in point}


def takes_whole(train: TrainConfig, key: str, parameter: "Parameter") -> bool:
    """Whether a range is of whole numbers: both bounds are, and the key takes no number between two."""
    if parameter.choice is not None:
        return False
    low, high = parameter.bounds
    if not (isinstance(low, int) and isinstance(high, int)):
        return False
    try:
        applied(train, {key: low + 0.5})
    except ValidationError:
        return True
    return False


def _draw(rng: random.Random, parameter: "Parameter", *, whole: bool) -> Any:
    if parameter.choice is not None:
        return rng.choice(parameter.choice)
    low, high = parameter.bounds
    if parameter.range is not None:
        return rng.randint(int(low), int(high)) if whole else rng.uniform(low, high)
    if whole:  # each whole number has the stretch between its neighbours' halves
        drawn = math.exp(rng.uniform(math.log(low - 0.5), math.log(high + 0.5)))
        return min(int(high), max(int(low), round(drawn)))
    return min(high, max(low, math.exp(rng.uniform(math.log(low), math.log(high)))))


def optuna_space(sweep: "SweepConfig", train: TrainConfig) -> dict[str, Any]:
    """The same space for Optuna, a choice by the index of its values."""
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    space: dict[str, Any] = {}
    for key, parameter in sweep.parameters.items():
        if parameter.choice is not None:
            space[key] = CategoricalDistribution(list(range(len(parameter.choice))))
            continue
        low, high = parameter.bounds
        log = parameter.log is not None
        if takes_whole(train, key, parameter):
            space[key] = IntDistribution(int(low), int(high), log=log)
        else:
            space[key] = FloatDistribution(float(low), float(high), log=log)
    return space


def chosen(sweep: "SweepConfig", proposal: Mapping[str, Any]) -> Point:
    """The point of an Optuna proposal."""
    return {
        key: proposal[key] if parameter.choice is None else parameter.choice[proposal[key]]
        for key, parameter in sweep.parameters.items()
    }


def proposal_of(sweep: "SweepConfig", train: TrainConfig, point: Point) -> dict[str, Any]:
    """The Optuna proposal that a trial's point came from: the inverse of `chosen`, then `resolved`."""
    proposal = dict(point)
    for key, parameter in sweep.parameters.items():
        for index, value in enumerate(parameter.choice or ()):
            with suppress(ConfigError):  # a value that does not go with the others
                if resolved(train, {**point, key: value})[key] == point[key]:
                    proposal[key] = index
                    break
    return proposal


def budget(sweep: "SweepConfig", train: TrainConfig, validations: int) -> float:
    """Data that a trial has seen after so many validations, on the scale of ASHA's rungs.

    The unit is the data between two validations of the trial with the largest batches. Where trials
    validate at the end of each epoch, they have all seen the same.

    train: of the trial
    """
    if not train.validate_every_steps or "chains_per_batch" not in sweep.parameters:
        return validations
    parameter = sweep.parameters["chains_per_batch"]
    sizes = [
        applied(train, {"chains_per_batch": value}).chains_per_batch
        for value in parameter.choice or parameter.bounds
    ]
    return validations * train.chains_per_batch / max(sizes)


def data_settings(sweep: "SweepConfig", train: TrainConfig) -> list[TrainConfig]:
    """One train section for each way in which the trials' examples can differ."""
    varied = ("model", "revision", "abilities", "objective")
    keys = [key for key in varied if key in sweep.parameters]
    choices: list[Sequence[Any]] = [sweep.parameters[key].choice or () for key in keys]
    sections = [
        applied(train, dict(zip(keys, values, strict=True)))
        for values in itertools.product(*choices)
    ]
    return list({data_key(section): section for section in sections}.values())


def data_key(train: TrainConfig) -> tuple[Any, ...]:
    """Settings of the train section that prepared examples depend on."""
    whole_path = objective_named(train.objective).whole_path
    return (
        train.model,
        train.revision,
        () if whole_path else train.abilities,
        whole_path,
    )
