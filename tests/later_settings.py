"""Settings of a later version, in which keys were added, and settings with other values."""

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel, create_model

from steper_ray.run.config import RunConfig
from steper_ray.run.keys import EXCLUDED


def with_added_keys(value: Any) -> Any:
    """The same settings of a later version, in which every section, and every one within, has a new key."""
    if isinstance(value, BaseModel):
        fields = {k: with_added_keys(getattr(value, k)) for k in type(value).model_fields}
        within = {k: (type(v), v) for k, v in fields.items() if isinstance(v, BaseModel)}
        added: dict[str, Any] = {"added_later": (int, 7), **within}
        return create_model("Later", __base__=type(value), **added).model_construct(**fields)
    if isinstance(value, tuple):
        return tuple(with_added_keys(item) for item in value)
    if isinstance(value, dict):
        return {name: with_added_keys(item) for name, item in value.items()}
    return value


def with_excluded_keys(config: RunConfig) -> RunConfig:
    """Other values under keys that no result depends on."""
    changed: dict[str, Any] = {}
    others = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v + 1.0}
    for section, keys in EXCLUDED.items():
        if section in ("run", "hub"):
            continue
        values = getattr(config, section)
        update = {
            key: others[type(getattr(values, key))](getattr(values, key))
            for key in keys
            if "." not in key
            and key not in ("fresh", "mix")
            and type(getattr(values, key)) in others
        }
        changed[section] = values.model_copy(update=update)
    assert {"engine", "train", "build", "sweep"} <= changed.keys()
    return config.model_copy(update=changed)


def with_value(config: RunConfig, key: str, value: Any) -> RunConfig:
    """The settings with another value under a key."""
    section, name = key.split(".")
    changed = getattr(config, section).model_copy(update={name: value})
    return config.model_copy(update={section: changed})


LATER = pytest.mark.parametrize("later", [with_added_keys, with_excluded_keys])
Later = Callable[[RunConfig], RunConfig]
