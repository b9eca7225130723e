"""Step-wise examples → token ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.arrow import STEP_EXAMPLE_SCHEMA
from steper_ray.errors import InputError
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.prompts import fit_prompt, split_searches
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.identity import digest
from steper_ray.schema import ABILITIES, Passage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


READ_COLUMNS: Final = (
    "chain_id",
    "step",
    "ability",
    "question",
    "passages",
    "reasoning",
    "forced",
    "target",
    "found",
)


@dataclass(frozen=True, slots=True)
class TokenExample:
    """One training example as numbers."""

    chain_id: str
    step: int
    ability: int
    """0 init · 1 exp · 2 agg."""
    ids: "NDArray[np.int32]"
    """(tokens,) prompt, then target."""
    target_tokens: int
    """How many of the last ids are the target; these are supervised."""
    question: str = ""


@dataclass(frozen=True, slots=True)
class TokenizedData:
    """Every example of a run, chains in order of their id, steps in order within."""

    examples: list[TokenExample]
    chains: list[list[int]]
    """Per chain, its examples' indices."""
    dropped_passages: int
    """Passages left out of prompts that would have outgrown the context, over all examples."""


def stepwise_files(folder: Path) -> list[Path]:
    """The Parquet files of the stepwise ability, checked to have rows and every column.

    Raises InputError naming the file, and the column if one is missing.
    """
    import pyarrow.parquet as pq

    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise InputError(
            f"{folder}: no Parquet files with step-wise examples; run `steper build` first"
        )
    rows = 0
    for file in files:
        metadata = pq.read_metadata(file)
        present = metadata.schema.to_arrow_schema().names
        for column in STEP_EXAMPLE_SCHEMA.names:
            if column not in present:
                raise InputError(
                    f"{file}: no column {column!r}; write it again with `steper build`"
                )
        rows += metadata.num_rows
    if not rows:
        raise InputError(
            f"{folder}: no rows: no chain was kept; loosen the select section and run `steper select`"
        )
    return files


def _read(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(columns=list(READ_COLUMNS)):
                for row in batch.to_pylist():
                    if row["ability"] not in ABILITIES:
                        raise InputError(
                            f"{file}: column 'ability' has {row['ability']!r}; "
                            f"expected one of {', '.join(ABILITIES)}"
                        )
                    yield row


def examples_digest(files: Sequence[Path]) -> str:
    """Changes with anything that is read of the examples, not with how they are spread over files.

    Values that are null do not count, so that a column may be added.
    """
    total = 0
    for row in _read(files):
        values = {name: value for name, value in row.items() if value is not None}
        total += int(digest(values), 16)
    return f"{total % 2**64:016x}"


def tokenize_examples(
    files: Sequence[Path],
    tokenizer: Any,
    *,
    reasoning: ReasoningConfig,
    abilities: Sequence[str] = ABILITIES,
    whole_path: bool = False,
) -> TokenizedData:
    """Render, fit and tokenize every example, with the prompt code the engines use.

    files:      from `stepwise_files`
    tokenizer:  the student's, from transformers
    reasoning:  how the student will be asked; prompts longer than its `max_prompt_tokens` lose whole
                passages, oldest first, and the target is never cut
    abilities:     examples of other abilities are left out
    whole_path: one example a chain instead, for `vanilla-kd`: all passages, then the whole path

    Raises InputError if an ability that is asked for has no example.
    """
    import numpy as np

    encoder = PromptEncoder(tokenizer, reasoning.chat)
    framework = framework_named(reasoning.framework)
    examples: list[TokenExample] = []
    dropped = 0
    for row in _read(files):
        if row["ability"] not in (("agg",) if whole_path else abilities):
            continue
        found, rationales = row["found"] or (), row["reasoning"]
        target, forced = row["target"], row["forced"]
        if whole_path:
            last = framework.parse(target, forced=forced).rationale
            target = framework.render_path([*rationales, last])
            found, rationales, forced = (), [], False
        fitted = fit_prompt(
            reasoning,
            row["question"],
            split_searches([Passage(**passage) for passage in row["passages"]], found),
            rationales,
            forced=forced,
            count_tokens=encoder.count_tokens,
        )
        dropped += fitted.dropped_passages
        wanted = encoder.encode_target(target)
        ids = np.array([*encoder.encode(fitted.prompt), *wanted], dtype=np.int32)
        ability = ABILITIES.index(row["ability"])
        examples.append(
            TokenExample(row["chain_id"], row["step"], ability, ids, len(wanted), row["question"])
        )
    present = {ABILITIES[example.ability] for example in examples}
    for name in ("agg",) if whole_path else abilities:
        if name not in present:
            raise InputError(
                f"{files[0].parent}: no example of ability {name!r} among the step-wise examples; leave it "
                "out of train.abilities, or build from questions that need more steps"
            )
    examples.sort(key=lambda example: (example.chain_id, example.step))
    chains: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        chains.setdefault(example.chain_id, []).append(index)
    return TokenizedData(examples, list(chains.values()), dropped)


def check_examples(examples: Sequence[TokenExample], *, vocabulary: int, positions: int) -> None:
    """Raises InputError for an example that the model cannot take.

    vocabulary: rows of its embedding; positions: most tokens it was made for
    """
    for example in examples:
        where = f"chain {example.chain_id}, step {example.step}"
        if len(example.ids) > positions:
            raise InputError(
                f"train.model: {where} has {len(example.ids):,} tokens, {example.target_tokens:,} of them "
                f"its target, but the model takes {positions:,}; lower reasoning.max_prompt_tokens"
            )
        if int(example.ids.max()) >= vocabulary:
            raise InputError(
                f"train.model: {where} has token {int(example.ids.max())}, but the model knows only "
                f"{vocabulary:,}; the folder's tokenizer belongs to another model"
            )
