"""YAML for values of known types: a text is what is written, and no key is given twice.

YAML takes `2026-11-27` for a date, `017` for the number 15 and `no` for false. Where the type of a setting
says that it is text (a folder, a name), it is none of them.
"""

from types import UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel

_TEXT: Final = "tag:yaml.org,2002:str"
_MISREAD: Final = {f"tag:yaml.org,2002:{name}" for name in ("bool", "int", "float", "timestamp")}
"""What YAML makes of plain text; null stays null."""


def load_yaml(text: str, kind: Any) -> Any:
    """The values of a YAML document; raises yaml.YAMLError.

    kind: the type that they will be checked against: a section, `dict[str, Key]`, `str | None` …
    """
    loader = _EveryKeyOnce(text)
    try:
        node = loader.get_single_node()
        return None if node is None else loader.construct_document(_as_written(node, kind))
    except ValueError as error:  # 2026-99-99 where a number is wanted
        raise yaml.YAMLError(str(error)) from None
    finally:
        loader.dispose()


def inside(kind: Any, key: str | int) -> Any:
    """The type of what stands under a key of a value of type `kind`; None if that is not known."""
    if (section := section_of(kind)) is not None:
        field = section.model_fields.get(str(key))
        return None if field is None else field.annotation
    for option in _options(kind):
        if get_origin(option) is dict:
            return get_args(option)[1]
        if get_origin(option) is tuple:
            return get_args(option)[0]
    return None


def section_of(kind: Any) -> type[BaseModel] | None:
    """The section that a value of this type may be."""
    return next((option for option in _options(kind) if hasattr(option, "model_fields")), None)


class _EveryKeyOnce(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would take the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, (key_node, _) in enumerate(node.value):
            if (key := keys[place]) in keys[:place]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} is given twice", key_node.start_mark
                )
        return super().construct_mapping(node, deep)


def _as_written(node: yaml.Node, kind: Any) -> yaml.Node:
    """A copy of the node in which what is read as text is marked as text."""
    marks = node.start_mark, node.end_mark
    if kind in (None, Any):
        return node
    if isinstance(node, yaml.ScalarNode):
        misread = _takes_text(kind) and node.tag in _MISREAD
        return yaml.ScalarNode(_TEXT, node.value, *marks) if misread else node
    if isinstance(node, yaml.SequenceNode):
        items = [_as_written(item, inside(kind, at)) for at, item in enumerate(node.value)]
        return yaml.SequenceNode(node.tag, items, *marks)
    pairs = [
        (_as_written(key, str), _as_written(value, inside(kind, key.value)))
        for key, value in node.value
    ]
    return yaml.MappingNode(node.tag, pairs, *marks)


def _takes_text(kind: Any) -> bool:
    """Whether a single value of this type is text and nothing else (but null)."""
    options = _options(kind)
    single = {option for option in options if option in (str, int, float, bool)}
    single |= {
        type(value)
        for option in options
        if get_origin(option) is Literal
        for value in get_args(option)
    }
    return single == {str}


def _options(kind: Any) -> list[Any]:
    """The types that `kind` is a union of, without what Annotated adds to them."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, UnionType):
        return [option for part in get_args(kind) for option in _options(part)]
    return [kind]
