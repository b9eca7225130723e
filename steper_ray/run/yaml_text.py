"""YAML for values of known types: a text is what is written, and no key is given twice.

YAML takes `017` for the number 15 and `no` for false. Where the type of a setting says that it is text (a
folder, a name), it is neither; and what looks like a date is text, which only a date's own type reads as
one. A number that people read as two different ones (`010`, `1:30`) is refused, and `1e-5` is a number.
"""

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import yaml

from steper_ray.run.kinds import (
    empty_is_default,
    inside,
    is_compound,
    is_unknown,
    may_be_null,
    section_of,
    singles,
    takes_text,
)
from steper_ray.text import is_unicode, squeeze

_TAG: Final = "tag:yaml.org,2002:"
_TEXT: Final = f"{_TAG}str"
_BOOL, _INT, _FLOAT = f"{_TAG}bool", f"{_TAG}int", f"{_TAG}float"
_MERGE: Final = f"{_TAG}merge"

OWN: Final = "x-"
"""Begins keys at the top of a file that are nobody's settings, but hold anchors."""


MAX_REPEATED: Final = 10_000
"""Most values that aliases of a document may repeat; an alias of an alias multiplies them."""


# Reading ----------------------------------------------------------------------------------------------


def load_yaml(text: str, kind: Any, *, is_file: bool = True) -> Any:
    """The values of a YAML document; raises yaml.YAMLError, which `yaml_reason` puts into words.

    kind:    the type that they will be checked against: a section, `dict[str, Key]`, `str | None` …
    is_file: whether keys at the top that begin with OWN are left out, where it is a section
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        _resolve(node, frozenset(), set())
        _check_size(node)
        if is_file and isinstance(node, yaml.MappingNode) and section_of(kind) is not None:
            node.value = [pair for pair in node.value if not str(pair[0].value).startswith(OWN)]
        return without_empty(loader.construct_document(_as_written(node, kind)), kind)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply; write it flatter") from None
    finally:
        loader.dispose()


def read_argument(text: str, kind: Any) -> Any:
    """The value of a command-line argument, in which no sign has to be quoted for YAML.

    Where a text is expected, it is the text as given, but for what stands wholly in quotes, and for `null`.
    Lists and sections are YAML, where the key may have any. All else is a single value, without comments.
    Raises yaml.YAMLError.
    """
    bare, opens = text.strip(), text.strip()[:1] in ("[", "{")
    only_compound = is_compound(kind) and not singles(kind)
    if only_compound or (opens and (is_compound(kind) or is_unknown(kind))):
        try:
            return load_yaml(text, kind, is_file=False)
        except yaml.YAMLError:
            if only_compound or bare.endswith(("]", "}")):
                raise  # else a text that begins with a pattern or a name in braces
    if (quoted := _quoted(bare)) is not None:
        return quoted
    if bare == "null" or (bare == "~" and may_be_null(kind)):
        return None
    loader: Any = _Loader("")
    try:
        tag = _TEXT if takes_text(kind) else loader.resolve(yaml.ScalarNode, bare, (True, False))
        node = yaml.ScalarNode(tag, text if takes_text(kind) else bare)
        return loader.construct_document(_as_written(node, kind))
    finally:
        loader.dispose()


def _quoted(text: str) -> str | None:
    """What stands in a text that is one quoted text as a whole; None for any other."""
    if text[:1] not in ("'", '"'):
        return None
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
    except yaml.YAMLError:
        return None
    finally:
        loader.dispose()
    if not isinstance(node, yaml.ScalarNode) or node.end_mark.index < len(text):
        return None
    if not is_unicode(node.value):
        raise _half_character(node)
    return str(node.value)


def without_empty(values: Any, kind: Any) -> Any:
    """The values without keys of a section that hold nothing, where a section, list or mapping belongs.

    Such a key then has its default, as a key that is not there.
    """
    if isinstance(values, list):
        return [without_empty(value, inside(kind, at)) for at, value in enumerate(values)]
    if not isinstance(values, dict):
        return values
    return {
        key: without_empty(value, inside(kind, key))
        for key, value in values.items()
        if value is not None or section_of(kind) is None or not empty_is_default(inside(kind, key))
    }


_ADVICE: Final = (
    (r"found character '\t'", "indent and separate with spaces, not tabs"),
    ("mapping values are not allowed", "put a text with a colon in quotes, and indent keys alike"),
    ("cannot start any token", "put a text that begins with this sign in quotes"),
    ("scanning an alias", "put a text that begins with * in quotes"),
    ("undefined alias", "define it above with &, or put a text that begins with * in quotes"),
    ("constructor for the tag", "leave the tag out, or put a text that begins with ! in quotes"),
    ("expected <block end>", "put a text with such signs in quotes, and indent keys alike"),
    (
        "expected ',' or",
        "put a text with a colon, a bracket or a brace in quotes, and close brackets",
    ),
    ("another document", "keep one document in a file"),
    ("end of stream", "close the quote or the bracket"),
    ("special characters", "save the file as UTF-8 text"),
)
"""What to do about YAML's findings, by the words in them."""


def yaml_reason(error: yaml.YAMLError) -> str:
    """What is wrong in a YAML text, where, and what to do, in one line."""
    problem = squeeze(getattr(error, "problem", None) or str(error).partition(" in ")[0])
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    if isinstance(error, _NotTakenError):
        return where + problem
    said = f"{getattr(error, 'context', None) or ''} {problem}"
    advice = next((f"; {advice}" for words, advice in _ADVICE if words in said), "")
    return f"not valid YAML: {where}{problem}{advice}"


class _NotTakenError(yaml.MarkedYAMLError):
    """YAML that is not taken although it is valid: what is meant by it is in doubt."""


def _wrong(node: yaml.Node, problem: str) -> _NotTakenError:
    return _NotTakenError(problem=problem, problem_mark=node.start_mark)


def _half_character(node: yaml.Node) -> _NotTakenError:
    return _wrong(node, f"{node.value!a} holds half a character; write the character itself")


# YAML -------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """Plain values, and numbers without the surprises of YAML 1.1; no dates."""

    yaml_constructors: ClassVar = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag in (None, f"{_TAG}null", f"{_TAG}seq", f"{_TAG}map")
    }
    yaml_implicit_resolvers = {  # noqa: RUF012 — as its base declares it
        first: [(tag, form) for tag, form in forms if tag != f"{_TAG}timestamp"]
        for first, forms in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number; refuses 010, which is 8 in YAML 1.1 and 10 in YAML 1.2, and 1:30, which is 90."""
        text = str(self.construct_scalar(node)).replace("_", "")
        if re.fullmatch("[-+]?0[0-9]+", text):
            raise _wrong(
                node,
                f"{node.value} begins with a zero, which makes it octal to some; leave the zero out, write "
                "0o before octal digits, or put a text in quotes",
            )
        if ":" in text:
            raise _wrong(
                node,
                f"{node.value} is a number to the base 60 to some; write it out, or put a text in quotes",
            )
        try:
            if node.tag == _FLOAT:
                return float(self.construct_yaml_float(node))
            return int(text, 8) if "0o" in text else int(self.construct_yaml_int(node))
        except (ValueError, IndexError):  # IndexError: of a tag before nothing
            raise _wrong(
                node, f"{node.value[:60] or 'nothing'} cannot be read as a number"
            ) from None

    def construct_text(self, node: yaml.ScalarNode) -> str:
        """A text, which may be written with half a character."""
        text = str(self.construct_yaml_str(node))
        if not is_unicode(text):
            raise _half_character(node)
        return text

    def construct_truth(self, node: yaml.ScalarNode) -> bool:
        """True or false, which `!!bool` may name wrongly."""
        if str(self.construct_scalar(node)).lower() not in self.bool_values:
            raise _wrong(node, f"{node.value[:60]} is neither true nor false")
        return bool(self.construct_yaml_bool(node))


_MORE_NUMBERS: Final = (
    (_INT, r"[-+]?(0o[0-7]+|0[0-9_]+)"),
    (_FLOAT, r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+"),
)
"""Numbers of YAML 1.2 that YAML 1.1 takes for text."""

for _tag, _form in _MORE_NUMBERS:
    _Loader.add_implicit_resolver(_tag, re.compile(f"(?:{_form})$"), list("-+.0123456789"))
    _Loader.add_constructor(_tag, _Loader.construct_number)
_Loader.add_constructor(_BOOL, _Loader.construct_truth)
_Loader.add_constructor(_TEXT, _Loader.construct_text)


class _Dumper(yaml.SafeDumper):
    """Puts in quotes what the loader would take for a number."""

    yaml_implicit_resolvers = _Loader.yaml_implicit_resolvers


def dump_yaml(values: Mapping[str, Any]) -> str:
    """YAML that `load_yaml` reads as the same values, keys in their order."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _resolve(node: yaml.Node, above: frozenset[int], done: set[int]) -> None:
    """Check the keys of every mapping, and put what it merges (`<<`) in place.

    above: nodes that this one stands in; done: nodes that need nothing more, by their id
    """
    if id(node) in above:
        raise _wrong(node, "a value that holds itself; take the * out of what its & names")
    if isinstance(node, yaml.ScalarNode) or id(node) in done:
        return
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            for child in pair:
                _resolve(child, above | {id(node)}, done)
        node.value = _merged(node)
    else:
        for child in node.value:
            _resolve(child, above | {id(node)}, done)
    done.add(id(node))


def _check_size(root: yaml.Node) -> None:
    """Raises _NotTakenError for a document that aliases make much longer than it is written."""
    sizes: dict[int, int] = {}

    def size(node: yaml.Node) -> int:
        if id(node) not in sizes:
            inner: list[yaml.Node] = []
            if isinstance(node, yaml.MappingNode):
                inner = [child for pair in node.value for child in pair]
            elif isinstance(node, yaml.SequenceNode):
                inner = node.value
            sizes[id(node)] = 1 + sum(map(size, inner))
        return sizes[id(node)]

    if size(root) - len(sizes) > MAX_REPEATED:
        raise _wrong(
            root,
            f"* repeats more than {MAX_REPEATED} values; name fewer, or lists that are shorter",
        )


def _merged(node: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
    """The keys of a mapping with values: those that it merges, then its own, which count before them."""
    own = [pair for pair in node.value if pair[0].tag != _MERGE]
    names: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _wrong(key, "a key is a name; put a text with brackets or braces in quotes")
        if key.value in names:
            raise _wrong(key, f"{key.value!r} is given twice; keep one of them")
        names.add(key.value)
    merged: dict[str, tuple[yaml.Node, yaml.Node]] = {}
    for key, value in node.value:
        if key.tag != _MERGE:
            continue
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                raise _wrong(source, "<< takes keys with values, or a list of such; name one by *")
            for pair in source.value:
                merged.setdefault(str(pair[0].value), pair)
    return [pair for name, pair in merged.items() if name not in names] + own


def _as_written(node: yaml.Node, kind: Any) -> yaml.Node:
    """A copy of the node in which what is read as text is marked as text."""
    marks = node.start_mark, node.end_mark
    if is_unknown(kind):
        return node
    if isinstance(node, yaml.ScalarNode):
        misread = (takes_text(kind) and node.tag in (_BOOL, _INT, _FLOAT)) or (
            node.tag == _BOOL and bool not in singles(kind)
        )
        return yaml.ScalarNode(_TEXT, node.value, *marks) if misread else node
    if isinstance(node, yaml.SequenceNode):
        items = [_as_written(item, inside(kind, at)) for at, item in enumerate(node.value)]
        return yaml.SequenceNode(node.tag, items, *marks)
    pairs = [
        (_as_written(key, str), _as_written(value, inside(kind, key.value)))
        for key, value in node.value
    ]
    return yaml.MappingNode(node.tag, pairs, *marks)
