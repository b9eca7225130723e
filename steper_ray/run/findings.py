"""What pydantic finds wrong with the values of a file, in one line: key path, reason, way out."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from steper_ray.run.kinds import inside, section_of, sections_of
from steper_ray.run.section import HIDDEN, did_you_mean, expected_by, reason_of


def explained(error: ValidationError, values: Any, root: type[BaseModel]) -> tuple[str, str]:
    """The key path of the first finding, and what is wrong there with what to do.

    values: what was checked; root: the type it was checked against
    """
    findings = _at_one_place(error.errors(), values)
    finding = findings[0]
    location = finding["loc"]
    path = ".".join(_key_path(values, finding))
    if finding["type"] != "extra_forbidden":
        reason, given = reason_of(finding), finding["input"]
        if len(findings) > 1:
            reason = f"expected {' or '.join(str(expected_by(option)) for option in findings)}"
        if finding["type"] == "model_type" and (keys := _valid_keys(root, location, values)):
            reason += f" ({', '.join(keys)})"
        said = isinstance(given, str) and repr(given) in reason
        if isinstance(given, Mapping) or finding["type"] == HIDDEN or said:
            return path, reason
        wrong, semicolon, advice = reason.partition(";")
        shown = repr(given)
        shown = shown if len(shown) <= 100 else f"{shown[:99]}…"
        return path, f"{wrong}, got {shown}{semicolon}{advice}"
    keys = _valid_keys(root, location[:-1], values)
    hint = did_you_mean(str(location[-1]), keys) or f"valid keys: {', '.join(keys)}"
    return path, f"unknown key; {hint}"


def _at_one_place(findings: Sequence[Any], values: Any) -> Sequence[Any]:
    """The first finding; of a value that may be of several types, that of the type it has.

    Several only if it has none of them: one for each type.
    """
    place = _key_path(values, findings[0])
    paths = [(_key_path(values, finding), finding) for finding in findings]
    if inner := [f for path, f in paths if len(path) > len(place) and path[: len(place)] == place]:
        return inner[:1]
    here = [finding for path, finding in paths if path == place]
    return [finding for finding in here if expected_by(finding) is None][:1] or here


def _key_path(values: Any, finding: Any) -> list[str]:
    """The location as keys and numbers of items, without pydantic's names of a union's members."""
    path = []
    for part in finding["loc"]:
        if _has(values, part):
            values = values[part]
            path.append(str(part))
    unseen = finding["type"] in ("missing", "invalid_key")
    return [*path, str(finding["loc"][-1])] if unseen else path


def _valid_keys(root: type[BaseModel], location: Sequence[int | str], values: Any) -> list[str]:
    """The keys of the section at a location of pydantic's, which may have the `type` of one in it, and
    names of a union's members."""
    kind: Any = root
    for part in location:
        types = {one.model_fields["type"].default: one for one in sections_of(kind) if _typed(one)}
        if part in types:
            kind = types[part]
        elif _has(values, part):
            kind, values = inside(kind, part), values[part]
    section = section_of(kind)
    return [] if section is None else sorted(section.model_fields)


def _has(values: Any, part: int | str) -> bool:
    """Whether a part of a location is a key or the number of an item of these values."""
    if isinstance(values, list):
        return isinstance(part, int) and part < len(values)
    return isinstance(values, Mapping) and part in values


def _typed(section: type[BaseModel]) -> bool:
    return "type" in section.model_fields
