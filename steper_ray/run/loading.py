"""The run file: one YAML that describes a run from corpus to served student.

Every stage reads the same file and uses its own section. `--set section.key=value` overrides single values.
Where text is expected (a folder, a name), it is taken as it is written: `dir: 2026-11-27` is a folder of
this name. Paths may begin with `~`, name environment variables, and the run folder as `{run.dir}`; relative
paths are relative to the working directory. Keys that begin with `x-` are the user's own, for anchors.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml
from pydantic import ValidationError

from steper_ray.errors import ConfigError
from steper_ray.run.config import RunConfig
from steper_ray.run.findings import explained
from steper_ray.run.kinds import empty_is_default, inside, is_path, is_unknown
from steper_ray.run.paths import RUN_DIR, escaped, expanded
from steper_ray.run.secrets import holds_secret
from steper_ray.run.section import is_hidden
from steper_ray.run.settings import RunSection, absolute
from steper_ray.run.yaml_text import dump_yaml, load_yaml, read_argument, without_empty, yaml_reason
from steper_ray.text import is_unicode, one_line

MAX_DEPTH: Final = 50
"""Most keys of a `--set`, one inside the other."""


class _WrongValueError(Exception):
    """A value that cannot be used: key path, and why with what to do."""

    def __init__(self, place: str, reason: str, *, secret: bool = False) -> None:
        super().__init__(place, reason)
        self.place, self.reason, self.secret = place, reason, secret


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a run file.

    overrides: what is given with `--set`, as `section.key=value`
    Raises ConfigError with the file or the override, the key path, what was expected and the nearest
    valid key.
    """
    return _load(Path(path), overrides)[0]


def load_values(path: Path | str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The checked values of a run file with its overrides, paths filled in, without any default.

    Raises ConfigError as `load_config`.
    """
    return _load(Path(path), overrides)[1]


def _load(path: Path, overrides: Sequence[str]) -> tuple[RunConfig, dict[str, Any]]:
    written = _read_yaml(path)
    values = dict(written)
    for override in overrides:
        _apply_override(values, override)
    try:
        values = _with_paths(without_empty(values, RunConfig))
        _check_leaves(values)
        return RunConfig.model_validate(values), values
    except _WrongValueError as error:
        wrong = error
    except ValidationError as error:
        wrong = _WrongValueError(*explained(error, values, RunConfig), secret=is_hidden(error))
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply; write it flatter") from None
    source = _source(path, written, overrides, wrong)
    raise ConfigError(f"{source}: {wrong.place}: {wrong.reason}")


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
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
        raise ConfigError(f"{path}: {yaml_reason(error)}") from None
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected sections with keys, got {type(values).__name__}")
    return values


def run_file_text(values: Mapping[str, Any]) -> str:
    """A run file that gives the values as they are, with no path to fill in."""

    def escape(text: str, kind: Any, _place: str) -> str:
        return escaped(text) if is_path(kind) else text

    return dump_yaml(map_texts(values, RunConfig, escape))


# --set ------------------------------------------------------------------------------------------------


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not is_unicode(override):
        raise ConfigError(
            f"--set {_shown(override)}: is not UTF-8 text; type it in a UTF-8 terminal"
        )
    if not equals or len(parts) < 2 or not all(parts):
        raise ConfigError(f"--set {_shown(override)}: expected section.key=value")
    if len(parts) > MAX_DEPTH:
        raise ConfigError(
            f"--set {_shown(override)[:60]}…: has more than {MAX_DEPTH} keys; set it flatter"
        )
    kind = functools.reduce(inside, parts, RunConfig)
    try:
        value = read_argument(text, kind)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {_shown(override)}: {yaml_reason(error)}") from None
    target = values
    for at, part in enumerate(parts[:-1], 1):
        inner = target.get(part)
        if inner is not None and not isinstance(inner, dict):
            above = ".".join(parts[:at])
            raise ConfigError(
                f"--set {_shown(override)}: {above} is no section with keys, it is {inner!r}; set {above} "
                "as a whole"
            )
        target[part] = dict(inner or {})
        target = target[part]
    if value is None and empty_is_default(kind):
        target.pop(parts[-1], None)
    else:
        target[parts[-1]] = value


def _source(
    path: Path, written: Mapping[str, Any], overrides: Sequence[str], wrong: _WrongValueError
) -> str:
    """What gave a wrong value: the run file, the `--set` that set it, or both."""
    own, within = None, []
    for override in overrides:
        key = override.partition("=")[0]
        if wrong.place == key or wrong.place.startswith(f"{key}."):
            own = override
        elif key.startswith(f"{wrong.place}."):
            within.append(override)
    given = [own] if own is not None else within
    said = ", ".join(f"--set {_shown(override, secret=wrong.secret)}" for override in given)
    if own is not None or (within and not _stands_in(written, wrong.place)):
        return said
    return f"{path} with {said}" if said else f"{path}"


def _stands_in(values: Any, place: str) -> bool:
    """Whether a run file says something under a key path."""
    for part in place.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


def _shown(override: str, *, secret: bool = False) -> str:
    """An override as it was given, on one line; without its value, if that is secret."""
    key, equals, text = override.partition("=")
    if secret or holds_secret(text) or holds_secret(key):
        return f"{'…' if holds_secret(key) else key}{equals}…"
    line = override.encode("utf-8", "backslashreplace").decode()
    return line if line.isprintable() else one_line(line)


# Values -----------------------------------------------------------------------------------------------


def _with_paths(values: dict[str, Any]) -> dict[str, Any]:
    """The values with paths filled in: `~`, environment variables, `{run.dir}`."""
    run = values.get("run", {})
    if not isinstance(run, dict):
        raise _WrongValueError("run", f"expected a section with keys, got {run!r}")
    folder = run.get("dir", RunSection().dir)
    if isinstance(folder, str):
        if RUN_DIR in folder:
            raise _WrongValueError("run.dir", f"names itself by {RUN_DIR}; write the folder")
        folder = _expanded(folder, "run.dir")
    root = absolute(str(folder))

    def fill(text: str, kind: Any, place: str) -> str:
        if place == "run.dir":
            return str(folder)
        if is_path(kind):
            return _expanded(text, place).replace(RUN_DIR, root)
        return text.replace(RUN_DIR, root) if is_unknown(kind) else text

    filled: dict[str, Any] = map_texts({**values, "run": {**run, "dir": folder}}, RunConfig, fill)
    return filled


def map_texts(
    value: Any, kind: Any, change: Callable[[str, Any, str], str], place: str = ""
) -> Any:
    """The value with every text in it changed by a function of the text, its type and its key path."""
    if isinstance(value, str):
        return change(value, kind, place)
    if isinstance(value, Mapping):
        return {
            key: map_texts(inner, inside(kind, key), change, f"{place}.{key}".lstrip("."))
            for key, inner in value.items()
        }
    if isinstance(value, list):
        return [
            map_texts(inner, inside(kind, at), change, f"{place}.{at}")
            for at, inner in enumerate(value)
        ]
    return value


def _expanded(path: str, place: str) -> str:
    try:
        return expanded(path)
    except ValueError as error:
        raise _WrongValueError(place, str(error)) from None


def _check_leaves(values: dict[str, Any]) -> None:
    """Raises _WrongValueError for a secret, and for a number that is not finite."""
    for place, value in _leaves(values):
        if isinstance(value, float) and not math.isfinite(value):
            raise _WrongValueError(place, f"must be a finite number, got {value}")
        if isinstance(value, str) and holds_secret(value):
            raise _WrongValueError(
                place,
                "holds a token or a password, which no run file may; put it into an environment variable, "
                "and that one's name into hub.token_env or an endpoint's api_key_env",
                secret=True,
            )


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Every single value with its key path."""
    items: Iterable[tuple[Any, Any]]
    if isinstance(value, Mapping):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        yield place, value
        return
    for key, inner in items:
        yield from _leaves(inner, f"{place}.{key}".lstrip("."))
