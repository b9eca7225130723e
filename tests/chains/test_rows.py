"""Rows of chains that another tool wrote."""

from dataclasses import asdict
from typing import Any

import pytest

from steper_ray.chains.rows import chain_from_row
from steper_ray.errors import InputError
from tests.samples import CHAIN


def row(**values: Any) -> dict[str, Any]:
    return {**asdict(CHAIN), **values}


def test_values_that_may_be_missing() -> None:
    found = chain_from_row(
        row(hops=None, supporting_ids=None, right=None, teacher=None, sample=None)
    )
    assert (found.hops, found.supporting_ids, found.right, found.sample) == (None, (), 1.0, 1)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"steps": None}, "column 'steps' has no value"),
        ({"em": None}, "column 'em' has no value"),
        ({"gold_answers": None}, "column 'gold_answers' has no value"),
        ({"steps": [None]}, "column 'steps[0].query' has no value"),
        (
            {"steps": [{**asdict(CHAIN.steps[0]), "rationale": None}]},
            "column 'steps[0].rationale' has no value",
        ),
        ({"passages": [{"id": "p", "title": None, "text": "x"}]}, "column 'passages[0].title'"),
    ],
)
def test_a_value_that_chains_need_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError) as caught:
        chain_from_row(row(**values))
    assert str(caught.value).startswith(f"chain 'q1': {said}")
