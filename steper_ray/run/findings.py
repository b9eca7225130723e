"""What pydantic finds wrong with the values of a file, in one line: key path, reason, way out."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from steper_ray.run.kinds import inside, section_of, sections_of
from steper_ray.run.section import HIDDEN, did_you_mean, first_reason


def explained(error: ValidationError, values: Any, root: type[BaseModel]) -> tuple[str, str]:
    """The key path of the first finding, and what is wrong there with what to do.

    values: what was checked; root: the type it was checked against
    """
    finding = error.errors()[0]
    location = finding["loc"]
    path = ".".join(_key_path(values, finding))
    if finding["type"] != "extra_forbidden":
        reason, given = first_reason(error), finding["input"]
        if finding["type"] == "model_type" and (keys := _valid_keys(root, location)):
            reason += f" ({', '.join(keys)})"
        said = isinstance(given, str) and repr(given) in reason
        if isinstance(given, Mapping) or finding["type"] == HIDDEN or said:
            return path, reason
        wrong, semicolon, advice = reason.partition(";")
        shown = repr(given)
        shown = shown if len(shown) <= 100 else f"{shown[:99]}…"
        return path, f"{wrong}, got {shown}{semicolon}{advice}"
    keys = _valid_keys(root, location[:-1])
    hint = did_you_mean(str(location[-1]), keys) or f"valid keys: {', '.join(keys)}"
    return path, f"unknown key; {hint}"


def _key_path(values: Any, finding: Any) -> list[str]:
    """The location as keys and numbers of items, without pydantic's names of a union's members."""
    path = []
    for part in finding["loc"]:
        if (isinstance(values, Mapping) and part in values) or (
            isinstance(values, list) and isinstance(part, int) and part < len(values)
        ):
            values = values[part]
        else:
            continue
        path.append(str(part))
    unseen = finding["type"] in ("missing", "invalid_key")
    return [*path, str(finding["loc"][-1])] if unseen else path


def _valid_keys(root: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """The keys of the section at a location of pydantic's, which may have the `type` of one in it."""
    kind: Any = root
    for part in location:
        types = {one.model_fields["type"].default: one for one in sections_of(kind) if _typed(one)}
        kind = types[part] if part in types else inside(kind, part)
    section = section_of(kind)
    return [] if section is None else sorted(section.model_fields)


def _typed(section: type[BaseModel]) -> bool:
    return "type" in section.model_fields
