"""Lists and objects in the words of Python, pandas and numpy."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from steper_ray.data.literals import read_literal


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("['Barack Obama' 'Obama']", ["Barack Obama", "Obama"]),
        ("['a'\n 'b']", ["a", "b"]),
        ("['a', \"it's\",]", ["a", "it's"]),
        ("('a', 'b')", ["a", "b"]),
        ("array(['a', 'b'], dtype='<U1')", ["a", "b"]),
        ("array([], shape=(0, 3), dtype=float64)", []),
        ("[np.str_('a'), np.int64(3)]", ["a", 3]),
        ("[ True False]", [True, False]),
        ("[-1.5 2. inf None]", [-1.5, 2.0, math.inf, None]),
        ("[{'t': 'a', 'k': 1.0} {'t': 'b'}]", [{"t": "a", "k": 1.0}, {"t": "b"}]),
        (
            "{'title': array(['A', 'B'], dtype=object),\n 's': array([array(['x.'], dtype=object)])}",
            {"title": ["A", "B"], "s": [["x."]]},
        ),
    ],
)
def test_what_is_read(text: str, value: Any) -> None:
    assert read_literal(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "['a' ... 'z']",
        "['a', 'b' 'c']",  # a comma forgotten: one text or two
        "['a''b']",
        "('a')",
        "('a' 'b')",
        "['a'] 'b'",
        "['a'",
        "{'a', 'b'}",
        "{'a' 1}",
        "[1-2]",
        "[a, b]",
        "array",
        "array(['a'], ['b'])",
        "['a']]",
        "",
    ],
)
def test_what_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_literal(text)


@given(st.lists(st.none() | st.booleans() | st.integers() | st.text(max_size=8), max_size=8))
def test_what_numpy_writes_is_read_as_it_was(items: list[object]) -> None:
    array = np.array(items, dtype=object)
    assert read_literal(str(array)) == items
    assert read_literal(repr(array)) == items
    assert read_literal(repr({"a": [array]})) == {"a": [items]}
