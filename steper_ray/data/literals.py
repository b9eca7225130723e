"""Lists and objects as Python, pandas and numpy write them into the cells of a table.

    ['a', 'b']    ['a' 'b']    array(['a', 'b'], dtype=object)    {'text': ['a'], 'at': array([3])}

numpy sets no commas, so Python itself would read its `['a' 'b']` as the one text `ab`. A list that numpy
shortened (`['a' ... 'z']`) cannot be read.
"""

import ast
import re
from typing import Any, Final

_TOKEN: Final = re.compile(
    r"""\s*+(?:
        (?P<text>'(?:[^'\\]|\\.)*+'|"(?:[^"\\]|\\.)*+")
      | (?P<number>[-+]?(?:\d++\.?\d*+|\.\d++)(?:[eE][-+]?\d++)?)
      | (?P<word>-?[A-Za-z_][\w.]*+)
      | (?P<sign>[][(){},:=])
    )""",
    re.VERBOSE | re.DOTALL,
)


_WORDS: Final = {
    "None": None,
    "True": True,
    "False": False,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
}


def read_literal(text: str) -> Any:
    """The value that a text spells; tuples and arrays as lists.

    Raises ValueError where it spells none, RecursionError where it is nested too deeply.
    """
    reader = _Reader(text)
    value = reader.value()
    if reader.tokens:
        raise ValueError("something stands after the value")
    return value


class _Reader:
    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        """(kind, token) of those not read yet, the next one last."""
        text = text.strip()
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(f"no value at character {at + 1}")
            kind = match.lastgroup or ""
            if match.start(kind) == at and self.tokens and {kind, self.tokens[-1][0]} <= _VALUES:
                raise ValueError(f"no space or comma at character {at + 1}")
            self.tokens.append((kind, match.group(kind)))
            at = match.end()
        self.tokens.reverse()

    def value(self) -> Any:
        kind, token = self._next()
        if kind in ("text", "number"):
            return ast.literal_eval(token)
        if token == "[":
            return self._items("]")
        if token == "(":
            return self._items(")", commas=True)
        if token == "{":
            return self._fields()
        if token == "array" or token.startswith("np."):  # np.str_('a'), np.int64(3)
            return self._call()
        if token in _WORDS:
            return _WORDS[token]
        raise ValueError(f"{token!r} is no value")

    def _items(self, end: str, commas: bool = False) -> list[Any]:
        """The items up to a bracket: between them commas, or spaces alone unless there must be `commas`."""
        items: list[Any] = []
        between = set()
        while not self._skip(end):
            if items:
                between.add(self._skip(","))
                if self._skip(end):
                    break
            items.append(self.value())
        if len(between) > 1 or (commas and items and between != {True}):
            raise ValueError("commas between some of the items")
        return items

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        while not self._skip("}"):
            if fields and not self._skip(","):
                raise ValueError("no comma between fields")
            name = self.value()
            if not isinstance(name, str) or not self._skip(":"):
                raise ValueError("a field without a name")
            fields[name] = self.value()
        return fields

    def _call(self) -> Any:
        """The first value of `array(…, shape=(2,), dtype=object)`."""
        if not self._skip("("):
            raise ValueError("no value after its type")
        value = self.value()
        while not self._skip(")"):
            if not (self._skip(",") and self._next()[0] == "word" and self._skip("=")):
                raise ValueError("more than one value")
            if self._next()[1] == "(":
                self._items(")", commas=True)
        return value

    def _next(self) -> tuple[str, str]:
        if not self.tokens:
            raise ValueError("the value has no end")
        return self.tokens.pop()

    def _skip(self, sign: str) -> bool:
        """Read the next token if it is this sign."""
        is_next = bool(self.tokens) and self.tokens[-1] == ("sign", sign)
        if is_next:
            self.tokens.pop()
        return is_next


_VALUES: Final = {"text", "number", "word"}
"""Kinds of tokens that stand apart."""
