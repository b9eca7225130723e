"""Arrow schemas of the records in `steper_ray.schema`: the columns of every Parquet and Lance file."""

from typing import Final

import pyarrow as pa

PASSAGE_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
    ]
)


QUESTION_SCHEMA: Final = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("question", pa.string(), nullable=False),
        pa.field("answer", pa.string(), nullable=False),
        pa.field("answer_aliases", pa.list_(pa.string())),
        pa.field("supporting_ids", pa.list_(pa.string())),
        pa.field("hops", pa.int32()),
        pa.field("type", pa.string()),
    ]
)


_PASSAGES: Final = pa.list_(pa.struct(list(PASSAGE_SCHEMA)))


STEP_TYPE: Final = pa.struct(
    [
        ("query", pa.string()),
        ("passage_ids", pa.list_(pa.string())),
        ("rationale", pa.string()),
        ("mean_logprob", pa.float64()),
        ("prompt_tokens", pa.int32()),
        ("generated_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("dropped_passages", pa.int32()),
        ("search_seconds", pa.float64()),
        ("generate_seconds", pa.float64()),
        ("finish_reason", pa.string()),
        ("thought", pa.string()),
        ("cut_sentences", pa.int32()),
    ]
)


CHAIN_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("gold_answers", pa.list_(pa.string())),
        ("hops", pa.int32()),
        ("passages", _PASSAGES),
        ("steps", pa.list_(STEP_TYPE)),
        ("answer", pa.string()),
        ("stop_reason", pa.string()),
        ("em", pa.float64()),
        ("f1", pa.float64()),
        ("acc", pa.float64()),
        ("right", pa.float64()),
        ("model", pa.string()),
        ("corpus_version", pa.string()),
        ("supporting_ids", pa.list_(pa.string())),
        ("teacher", pa.string()),
        ("sample", pa.int32()),
        ("attempt", pa.int32()),
        ("rationalized", pa.bool_()),
        ("critique", pa.string()),
        ("error", pa.string()),
        ("rejected", pa.string()),
        ("type", pa.string()),
    ]
)


STEP_EXAMPLE_SCHEMA: Final = pa.schema(
    [
        ("id", pa.string()),
        ("chain_id", pa.string()),
        ("step", pa.int32()),
        ("ability", pa.string()),
        ("question", pa.string()),
        ("passages", _PASSAGES),
        ("reasoning", pa.list_(pa.string())),
        ("forced", pa.bool_()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("found", pa.list_(pa.int32())),
        ("thought", pa.string()),
    ]
)
