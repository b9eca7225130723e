"""Which rows an object holds, and which objects hold none."""

from typing import Any

import pytest

from steper_ray.data.json_objects import wrapped_rows
from steper_ray.errors import InputError

ROWS = [{"a": 1}]


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        ({"data": ROWS, "version": "1"}, ROWS),
        ({"train": ROWS, "dev": ROWS}, None),
        ({"id": "1", "question": "q?", "paragraphs": ROWS}, None),
        ({"data": [1]}, None),
        ({}, None),
        ({"q1": {"question": "q?"}}, None),
        (
            {"Owl": ["Owls hunt.", " They see."], "text": ["x"], "Cat": []},
            [
                {"title": "Owl", "text": ["Owls hunt.", " They see."]},
                {"title": "text", "text": ["x"]},
                {"title": "Cat", "text": []},
            ],
        ),
        (
            {
                "data": [
                    {"title": "T", "paragraphs": [{"context": "c", "qas": [{"question": "q?"}]}]}
                ]
            },
            [{"title": "T", "context": "c", "question": "q?", "answers": None}],
        ),
    ],
)
def test_rows_of_an_object(content: dict[str, Any], rows: list[Any] | None) -> None:
    assert wrapped_rows("f", content) == rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"questions": ["q?"], "answers": ["a"]}, "an object of lists (questions, answers), which"),
        ({"id": ["1"], "text": ["x"]}, "an object of lists (id, text), which are columns"),
        (
            {"splits": ["train"]},
            "an object of lists (splits), which are columns; write one object a",
        ),
        ({"data": []}, "an object of lists (data)"),
        (
            {"query": {"0": "q"}, "answers": {"0": ["a"]}},  # MS MARCO's own files
            "columns of numbered objects (query, answers), as pandas writes them; write one object",
        ),
    ],
)
def test_an_object_of_columns_is_refused(content: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        wrapped_rows("f", content)
    assert str(caught.value).startswith(f"f: {said}")
