"""Types of settings: what may stand under a key, and how it is therefore read.

A type is what stands after the colon in a section: `str`, `PositiveInt | None`, `dict[str, LocalPath]`.
"""

from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from steper_ray.run.section import PATH


def inside(kind: Any, key: str | int) -> Any:
    """The type of what stands under a key of a value of type `kind`; None if that is not known."""
    for option in _options(kind):
        if hasattr(option, "model_fields"):
            if (field := option.model_fields.get(str(key))) is not None:
                return field.rebuild_annotation()
        elif get_origin(option) is dict:
            return get_args(option)[1]
        elif get_origin(option) is tuple:
            return get_args(option)[0]
    return None


def sections_of(kind: Any) -> list[type[BaseModel]]:
    """The sections that a value of this type may be."""
    return [option for option in _options(kind) if hasattr(option, "model_fields")]


def section_of(kind: Any) -> type[BaseModel] | None:
    """The section that a value of this type may be, the first of several."""
    return next(iter(sections_of(kind)), None)


def is_compound(kind: Any) -> bool:
    """Whether a value of this type may be a section, a list or a mapping."""
    return section_of(kind) is not None or any(
        get_origin(option) in (dict, tuple) for option in _options(kind)
    )


def may_be_null(kind: Any) -> bool:
    """Whether a value of this type may be null."""
    return NoneType in _options(kind)


def empty_is_default(kind: Any) -> bool:
    """Whether a key of this type that holds nothing is as good as not there."""
    return is_compound(kind) and not may_be_null(kind)


def is_path(kind: Any) -> bool:
    """Whether a text of this type is a path or an address of files."""
    if get_origin(kind) is Annotated:
        return PATH in kind.__metadata__ or is_path(get_args(kind)[0])
    return get_origin(kind) in (Union, UnionType) and any(map(is_path, get_args(kind)))


def is_unknown(kind: Any) -> bool:
    """Whether nothing is known of values of this type, as of an engine's arguments."""
    return kind is None or Any in _options(kind)


def takes_text(kind: Any) -> bool:
    """Whether a single value of this type is text and nothing else (but null)."""
    return singles(kind) == {str}


def singles(kind: Any) -> set[type]:
    """The types of single values, null aside, that a value of this type may have."""
    options = _options(kind)
    literal = [
        value for option in options if get_origin(option) is Literal for value in get_args(option)
    ]
    plain = {
        option for option in options if isinstance(option, type) and get_origin(option) is None
    }
    return {one for one in plain if not hasattr(one, "model_fields")} - {NoneType} | set(
        map(type, literal)
    )


def _options(kind: Any) -> list[Any]:
    """The types that `kind` is a union of, without what Annotated adds to them."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return [option for part in get_args(kind) for option in _options(part)]
    return [kind]
