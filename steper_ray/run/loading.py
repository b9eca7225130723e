"""The run file: one YAML that describes a run from corpus to served student.

Every stage reads the same file and uses its own section. Values may name the run folder as
`{run.dir}`; relative paths are relative to the working directory. `--set section.key=value` overrides
single values, with the value read as YAML. Where text is expected (a folder, a name), it is taken as it is
written: `dir: 2026-11-27` is a folder of this name.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from steper_ray.errors import ConfigError
from steper_ray.run.config import RunConfig
from steper_ray.run.secrets import holds_secret
from steper_ray.run.section import HIDDEN, did_you_mean, first_reason
from steper_ray.run.settings import RunSection, absolute
from steper_ray.run.yaml_text import inside, load_yaml
from steper_ray.text import squeeze


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file.

    Raises ConfigError with the file, the key path, what was expected and the nearest valid key.
    """
    path = Path(path)
    values = _read_yaml(path)
    for override in overrides:
        _apply_override(values, override)
    run = values.get("run", {})
    if not isinstance(run, dict):
        raise ConfigError(f"{path}: run: expected a section with keys, got {run!r}")
    folder = run.get("dir", RunSection().dir)
    values = _interpolate({**values, "run": {**run, "dir": folder}}, absolute(str(folder)))
    if (place := _secret_place(values)) is not None:
        raise ConfigError(
            f"{path}: {place}: holds a token or a password, which no run file may; put it into an "
            "environment variable, and that one's name into hub.token_env or an endpoint's api_key_env"
        )
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such run file; give one with --config") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give a YAML file with --config") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text ({error}); save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        values = load_yaml(text, RunConfig)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {squeeze(str(error))}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections with keys, got {type(values).__name__}")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"--set {override}: expected section.key=value")
    try:
        value = load_yaml(text, functools.reduce(inside, parts, RunConfig))
    except yaml.YAMLError:
        raise ConfigError(f"--set {override}: the value is not valid YAML") from None
    target = values
    for part in parts[:-1]:
        inner = target.get(part)
        target[part] = dict(inner) if isinstance(inner, dict) else {}
        target = target[part]
    target[parts[-1]] = value


def _interpolate(value: Any, folder: str) -> Any:
    if isinstance(value, str):
        return value.replace("{run.dir}", folder)
    if isinstance(value, Mapping):
        return {key: _interpolate(inner, folder) for key, inner in value.items()}
    if isinstance(value, list):
        return [_interpolate(inner, folder) for inner in value]
    return value


def _secret_place(value: Any, place: str = "") -> str | None:
    """The key path of the first text with a secret in it."""
    if isinstance(value, str):
        return place if holds_secret(value) else None
    inner: Iterable[tuple[Any, Any]] = value.items() if isinstance(value, Mapping) else ()
    if isinstance(value, list):
        inner = enumerate(value)
    found = (_secret_place(one, f"{place}.{key}" if place else str(key)) for key, one in inner)
    return next((one for one in found if one is not None), None)


def _explain(error: ValidationError) -> str:
    """The first finding as one line: key path, what was expected, the nearest valid key."""
    finding = error.errors()[0]
    location = finding["loc"]
    path = ".".join(_key_path(location))
    if finding["type"] != "extra_forbidden":
        reason, given = first_reason(error), finding["input"]
        if finding["type"] == "model_type" and (keys := _valid_keys(location)):
            reason += f" ({', '.join(keys)})"
        said = isinstance(given, str) and repr(given) in reason
        if isinstance(given, Mapping) or finding["type"] == HIDDEN or said:
            return f"{path}: {reason}"
        wrong, semicolon, advice = reason.partition(";")
        return f"{path}: {wrong}, got {given!r}{semicolon}{advice}"
    keys = _valid_keys(location[:-1])
    hint = did_you_mean(str(location[-1]), keys) or f"valid keys: {', '.join(keys)}"
    return f"{path}: unknown key; {hint}"


def _valid_keys(location: Sequence[int | str]) -> list[str]:
    """The keys of the section at a location of pydantic's."""
    model = _models(location)[-1]
    return sorted(model.model_fields) if hasattr(model, "model_fields") else []


def _key_path(location: Sequence[int | str]) -> list[str]:
    """A location of pydantic's as keys of the run file: without the tags of unions by `type`."""
    models = _models(location)
    return [
        str(part)
        for part, model in zip(location, models, strict=False)
        if not isinstance(model, tuple)
    ]


def _models(location: Sequence[int | str]) -> list[Any]:
    """What each part of a location is looked up in, and what the last one leads to.

    A section; a tuple of sections where the part is the `type` of one of them; or None.
    """
    models: list[Any] = [RunConfig]
    for part in location:
        models.append(_inner(models[-1], str(part)))
    return models


def _inner(model: Any, part: str) -> Any:
    if isinstance(model, tuple):
        return next((one for one in model if one.model_fields["type"].default == part), None)
    if not hasattr(model, "model_fields") or part not in model.model_fields:
        return None
    field = model.model_fields[part]
    sections = [one for one in _members(field.annotation) if hasattr(one, "model_fields")]
    if any("type" in one.model_fields for one in sections) and len(sections) > 1:
        return tuple(sections)
    return sections[0] if sections else None


def _members(annotation: Any) -> list[Any]:
    """The members of a union, without their annotations; of any other type itself."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return [member for part in get_args(annotation) for member in _members(part)]
    return [annotation]
