"""Rows of chains that another tool wrote."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steper_ray.arrow import CHAIN_SCHEMA
from steper_ray.chains.rows import chain_files, chain_from_row, read_file
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
        ({"f1": float("nan")}, "column 'f1' has no value"),
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


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("steps", pa.array(["x"]), "column 'steps' must be of type list, got string"),
        ("em", pa.array(["1"]), "column 'em' must be of type double, got string"),
        ("answer", pa.array([1]), "column 'answer' must be of type string, got int64"),
        ("gold_answers", pa.array([["x"]], pa.large_list(pa.large_string())), None),
        ("em", pa.array([1]), None),
    ],
)
def test_a_column_of_another_kind_is_named(
    tmp_path: Path, column: str, values: pa.Array, said: str | None
) -> None:
    table = pa.Table.from_pylist([asdict(CHAIN)], schema=CHAIN_SCHEMA)
    file = tmp_path / "a.parquet"
    pq.write_table(table.set_column(table.schema.names.index(column), column, [values]), file)
    if said is None:
        assert chain_files(tmp_path) == [file]
        assert [chain.id for chain in read_file(file)] == ["q1"]
        return
    with pytest.raises(InputError) as caught:
        chain_files(tmp_path)
    assert str(caught.value).startswith(f"{file}: {said}")
