"""Step-wise examples → token ids."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError
from steper_ray.reasoning.encoder import PromptEncoder
from steper_ray.reasoning.frameworks import cue_of, framework_named
from steper_ray.reasoning.prompts import fit_prompt, split_searches
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.identity import digest
from steper_ray.schema import Passage
from steper_ray.selection.abilities import STEPER, AbilityScheme

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
    """Index into the scheme's names."""
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
    abilities: tuple[str, ...] = STEPER.names
    """Names that the examples' abilities are indices into."""


def stepwise_files(folder: Path) -> list[Path]:
    """The Parquet files with step-wise examples, checked to have rows and every column that is read.

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
        for column in READ_COLUMNS:
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


def _read(files: Sequence[Path], abilities: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of the examples; raises InputError for an ability that is not one of `abilities`."""
    import pyarrow.parquet as pq

    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(columns=list(READ_COLUMNS)):
                for row in batch.to_pylist():
                    if row["ability"] not in abilities:
                        raise InputError(
                            f"{file}: column 'ability' has {row['ability']!r}; "
                            f"expected one of {', '.join(abilities)}"
                        )
                    yield row


def examples_digest(files: Sequence[Path], scheme: AbilityScheme = STEPER) -> str:
    """Digest of everything that is read of the examples, independent of how files hold them.

    Values that are null do not count, so that a column may be added. Raises InputError for an ability that
    the scheme does not have.
    """
    total = 0
    for row in _read(files, scheme.names):
        values = {name: value for name, value in row.items() if value is not None}
        total += int(digest(values), 16)
    return f"{total % 2**64:016x}"


def tokenize_examples(
    files: Sequence[Path],
    tokenizer: Any,
    *,
    reasoning: ReasoningConfig,
    scheme: AbilityScheme = STEPER,
    abilities: Sequence[str] | None = None,
    whole_path: bool = False,
) -> TokenizedData:
    """Render, fit and tokenize every example, with the prompt code the engines use.

    files:      from `stepwise_files`
    tokenizer:  the student's, from transformers
    reasoning:  how the student will be asked; prompts longer than its `max_prompt_tokens` lose whole
                passages, oldest first, and the target is never cut
    scheme:     the abilities that the examples were selected with
    abilities:  examples of other abilities are skipped; None takes all
    whole_path: one example a chain instead, made from its last step: all passages, then the whole path.
                It counts as the scheme's last ability

    Raises InputError if one of `abilities` has no example, or no chain has its last step.
    """
    import numpy as np

    encoder = PromptEncoder(tokenizer, reasoning.chat, reasoning.template_date)
    examples: list[TokenExample] = []
    dropped = 0
    names = scheme.names[-1:] if whole_path else tuple(abilities or scheme.names)
    rows = _whole_paths(files, scheme, reasoning) if whole_path else _read(files, scheme.names)
    for row in rows:
        if row["ability"] not in names:
            continue
        fitted = fit_prompt(
            reasoning,
            row["question"],
            split_searches([Passage(**passage) for passage in row["passages"]], row["found"] or ()),
            row["reasoning"],
            forced=row["forced"],
            counter=encoder,
        )
        dropped += fitted.dropped_passages
        target_ids = encoder.encode_target(fitted.prompt, row["target"])
        ids = np.array([*encoder.encode(fitted.prompt), *target_ids], dtype=np.int32)
        ability = scheme.names.index(row["ability"])
        examples.append(
            TokenExample(
                row["chain_id"], row["step"], ability, ids, len(target_ids), row["question"]
            )
        )
    present = {scheme.names[example.ability] for example in examples}
    for name in names:
        if name not in present:
            raise InputError(
                f"{files[0].parent}: no example of ability {name!r} among the step-wise examples; leave it "
                "out of train.abilities, or build from questions that need more steps"
            )
    examples.sort(key=lambda example: (example.chain_id, example.step))
    chains: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        chains.setdefault(example.chain_id, []).append(index)
    return TokenizedData(examples, list(chains.values()), dropped, scheme.names)


def _whole_paths(
    files: Sequence[Path], scheme: AbilityScheme, reasoning: ReasoningConfig
) -> Iterator[dict[str, Any]]:
    """Rows that ask for a chain's whole path at once, in place of its steps."""
    framework = framework_named(reasoning.framework)
    for row in _path_ends(files, scheme):
        last = framework.parse(row["target"], forced=row["forced"]).rationale
        target = framework.render_path([*row["reasoning"], last], cue=cue_of(reasoning))
        whole = {"found": (), "reasoning": [], "forced": False, "target": target}
        yield {**row, **whole, "ability": scheme.names[-1]}


def _path_ends(files: Sequence[Path], scheme: AbilityScheme) -> Iterator[dict[str, Any]]:
    """The last step of each chain that has one: its row holds all passages and earlier rationales."""
    import pyarrow.parquet as pq

    last_step: dict[str, int] = {}
    for file in files:
        steps = pq.read_table(file, columns=["chain_id", "step"]).to_pydict()
        for chain_id, step in zip(steps["chain_id"], steps["step"], strict=True):
            last_step[chain_id] = max(step, last_step.get(chain_id, 0))
    for row in _read(files, scheme.names):
        step = row["step"]
        if step == last_step[row["chain_id"]] and row["ability"] == scheme.of(step, step):
            yield row


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
