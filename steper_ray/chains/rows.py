"""Chains in Parquet files: rows ↔ `Chain`, columns that were added later, files that hold no chains."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.arrow import CHAIN_SCHEMA, QUESTION_SCHEMA
from steper_ray.chains.attempts import MissingAttempts, next_id
from steper_ray.chains.store import record_file, right_of
from steper_ray.chains.teachers import Reasoner
from steper_ray.errors import InputError
from steper_ray.run.identity import read_record
from steper_ray.schema import Chain, Passage, Question, Step
from steper_ray.text import squeeze

if TYPE_CHECKING:
    import pyarrow as pa


ADDED_LATER: Final = {"teacher": "", "sample": 1, "attempt": 1, "rationalized": False}
"""Values of these columns in chains that were written before the columns existed."""


def chain_from_row(row: dict[str, Any]) -> Chain:
    """A row of `CHAIN_SCHEMA` as a Chain.

    Raises InputError for one without a value that chains need, as another tool may write it.
    """
    _check_values(row)
    values = dict(row)
    for column, default in ADDED_LATER.items():
        if values.get(column) is None:
            values[column] = default
    values["right"] = right_of(row)
    values["gold_answers"] = tuple(row["gold_answers"])
    values["supporting_ids"] = tuple(row.get("supporting_ids") or ())
    values["passages"] = tuple(Passage(**passage) for passage in row["passages"])
    values["steps"] = tuple(
        Step(
            **{
                **step,
                "passage_ids": tuple(step["passage_ids"]),
                "cut_sentences": step.get("cut_sentences") or 0,  # null in older chains
            }
        )
        for step in row["steps"]
    )
    return Chain(**values)


def _check_values(row: dict[str, Any]) -> None:
    """Raises InputError for a row that lacks a value."""
    for column in REQUIRED_COLUMNS:
        value = row[column]
        is_nan = isinstance(value, float) and math.isnan(value)
        if (value is None or is_nan) and column != "hops":
            raise _missing_value(row, column)
    for column, names in REQUIRED_FIELDS.items():
        for at, item in enumerate(row[column]):
            for name in names:
                if item is None or item[name] is None:
                    raise _missing_value(row, f"{column}[{at}].{name}")


def _missing_value(row: dict[str, Any], column: str) -> InputError:
    return InputError(
        f"chain {row['id']!r}: column {column!r} has no value; these are not a teacher's chains, or "
        "another tool has changed them"
    )


def read_chains(folder: Path, ids: Sequence[str] | None = None) -> list[Chain]:
    """The chains of a folder, ordered by id.

    ids: chains to read; None reads all
    """
    import pyarrow.dataset as ds

    if ids is not None and not ids:
        return []
    files = [str(file) for file in sorted(folder.glob("*.parquet"))]
    chosen = None if ids is None else ds.field("id").isin(list(ids))
    rows = ds.dataset(files, schema=CHAIN_SCHEMA).to_table(filter=chosen).to_pylist()
    return sorted((chain_from_row(row) for row in rows), key=lambda chain: chain.id)


def attempts_row(missing: MissingAttempts, reasoner: Reasoner) -> dict[str, Any]:
    """Missing attempts as a row; its id is that of the first chain that they will make."""
    return {
        **asdict(missing.question),
        "id": next_id(missing, reasoner),
        "question_id": missing.question.id,
        "sample": missing.sample,
        "step": missing.step,
        "earlier": [asdict(chain) for chain in missing.earlier],
    }


def attempts_schema() -> "pa.Schema":
    """Arrow schema of `attempts_row`."""
    import pyarrow as pa

    earlier = pa.list_(pa.struct(list(CHAIN_SCHEMA)))
    numbers = [("sample", pa.int32()), ("step", pa.int32())]
    return pa.schema(
        [*QUESTION_SCHEMA, ("question_id", pa.string()), *numbers, ("earlier", earlier)]
    )


def attempts_from_row(row: dict[str, Any]) -> MissingAttempts:
    """A row of `attempts_schema` as MissingAttempts."""
    question = Question(
        id=row["question_id"],
        question=row["question"],
        answer=row["answer"],
        answer_aliases=tuple(row["answer_aliases"] or ()),
        supporting_ids=tuple(row["supporting_ids"] or ()),
        hops=row["hops"],
        type=row["type"],
    )
    earlier = tuple(map(chain_from_row, row["earlier"] or ()))
    return MissingAttempts(question, row["sample"], earlier, row["step"])


CHAINS_AT_ONCE: Final = 64
"""Chains that are unpacked into objects at a time."""


REQUIRED_COLUMNS: Final = tuple(field.name for field in fields(Chain) if field.default is MISSING)
"""Columns that a file of chains must have; the others were added later."""


REQUIRED_FIELDS: Final = {
    "passages": ("id", "title", "text"),
    "steps": ("query", "passage_ids", "rationale", "prompt_tokens", "generated_tokens"),
}
"""Fields of a chain's lists that must have a value."""


def chain_files(chains_dir: Path) -> list[Path]:
    """The Parquet files of a folder of chains, sorted, each with the columns that chains need.

    Raises InputError with the folder, or the file and the column; also for chains of a newer version.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    read_record(record_file(chains_dir))
    files = sorted(chains_dir.glob("*.parquet"))
    if not files:
        raise InputError(f"{chains_dir}: no chains; run `steper build` first")
    for file in files:
        try:
            schema = pq.read_schema(file)
        except pa.ArrowInvalid as error:
            line = squeeze(str(error))
            raise InputError(
                f"{file}: not a Parquet file ({line}); delete it and run `steper build`"
            ) from None
        for column in REQUIRED_COLUMNS:
            if column not in schema.names:
                raise InputError(f"{file}: no column {column!r}; these are not a teacher's chains")
            given, wanted = (each.field(column).type for each in (schema, CHAIN_SCHEMA))
            if not _is_of_kind(given, wanted):
                raise InputError(
                    f"{file}: column {column!r} must be of type {_brief(wanted)}, got {_brief(given)}; "
                    "these are not a teacher's chains"
                )
    return files


def _is_of_kind(given: "pa.DataType", wanted: "pa.DataType") -> bool:
    """Whether a column can be read as one of another type: lists, texts and numbers are three kinds."""
    import pyarrow.types as types

    def kind(type_: "pa.DataType") -> tuple[bool, bool]:
        is_list = types.is_list(type_) or types.is_large_list(type_)
        is_text = (
            types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_)
        )
        return is_list, is_text

    if types.is_dictionary(given):
        given = given.value_type
    return types.is_null(given) or kind(given) == kind(wanted)


def _brief(type_: "pa.DataType") -> str:
    """A type without what is inside it."""
    return str(type_).partition("<")[0]


def read_file(file: Path) -> Iterator[Chain]:
    """The chains of a file, in the file's order."""
    for batch in read_batches(file):
        yield from map(chain_from_row, batch.to_pylist())


def read_batches(file: Path) -> "Iterator[pa.RecordBatch]":
    """The rows of a file of chains, in the file's order, with every column of CHAIN_SCHEMA."""
    import pyarrow.dataset as ds

    dataset = ds.dataset(str(file), schema=CHAIN_SCHEMA, format="parquet")
    batches: Iterator[pa.RecordBatch] = dataset.to_batches(batch_size=CHAINS_AT_ONCE)
    return batches
