"""Step-wise examples → token ids."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import InputError
from steper_ray.ray_runtime.parallel import parallel_map
from steper_ray.reasoning.batch_encoder import BatchEncoder
from steper_ray.reasoning.frameworks import cue_of, framework_named
from steper_ray.reasoning.prompts import fit_prompt, make_prompt, split_searches
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
    """(tokens,) prompt, then target; a row of `train.mix` has several of both."""
    target_tokens: int
    """How many ids are the target, which are supervised: the last ones."""
    question: str = ""
    spans: tuple[int, ...] = ()
    """Where targets that stand elsewhere begin and end: start, end, start, end …"""

    @property
    def target_at(self) -> "NDArray[np.int64]":
        """(target tokens,) positions of the target in the ids."""
        import numpy as np

        length = len(self.ids)
        spans = self.spans or (length - self.target_tokens, length)
        ranges = [np.arange(start, end) for start, end in zip(spans[::2], spans[1::2], strict=True)]
        return np.concatenate(ranges)


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


def read_rows(files: Sequence[Path], abilities: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of the examples; raises InputError for an ability that is not one of `abilities`."""
    import pyarrow.parquet as pq

    for file in files:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(columns=list(READ_COLUMNS)):
                yield from checked_rows(batch.to_pylist(), file, abilities)


def checked_rows(
    rows: Iterable[dict[str, Any]], file: Path, abilities: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of a file; raises InputError for an ability that is not one of `abilities`."""
    for row in rows:
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
    of_file = partial(_sum_of_rows, abilities=scheme.names)
    sums = parallel_map(of_file, files) if len(files) > 1 else map(of_file, files)
    return f"{sum(sums) % 2**64:016x}"


def _sum_of_rows(file: Path, abilities: Sequence[str]) -> int:
    """The digests of a file's rows as numbers, added up."""
    total = 0
    for row in read_rows([file], abilities):
        values = {name: value for name, value in row.items() if value is not None}
        total += int(digest(values), 16)
    return total


def trained_abilities(
    scheme: AbilityScheme, abilities: Sequence[str] | None, *, whole_path: bool
) -> tuple[str, ...]:
    """The abilities whose examples are made: those asked for, or of whole paths the scheme's last."""
    return scheme.names[-1:] if whole_path else tuple(abilities or scheme.names)


def check_present(names: Sequence[str], present: Collection[str], folder: Path) -> None:
    """Raises InputError for an ability that has no example in a folder."""
    for name in names:
        if name not in present:
            raise InputError(
                f"{folder}: no example of ability {name!r} among the step-wise examples; leave it "
                "out of train.abilities, or build from questions that need more steps"
            )


def tokenize_rows(
    rows: Sequence[Mapping[str, Any]],
    encoder: BatchEncoder,
    *,
    reasoning: ReasoningConfig,
    scheme: AbilityScheme,
    abilities: Sequence[str],
    whole_path: bool,
) -> tuple[list[TokenExample], int]:
    """The examples of some chains, with the prompt code the engines use, by chain and step.

    rows:       of step-wise examples, every row of each of their chains
    reasoning:  how the student will be asked, and so trained; prompts longer than its `max_prompt_tokens`
                lose whole passages, oldest first, and the target is never cut
    scheme:     the abilities that the examples were selected with
    abilities:  examples of other abilities are skipped
    whole_path: one example a chain instead, made from its last step: all passages, then the whole path.
                It counts as the scheme's last ability

    Returns them, and how many passages were left out of prompts that would have outgrown the context.
    """
    import numpy as np

    if whole_path:
        rows = list(_whole_paths(rows, scheme, reasoning))
    rows = [row for row in rows if row["ability"] in abilities]
    asked = [_asked(row) for row in rows]
    prompts = [
        make_prompt(reasoning, *a, forced=row["forced"]) for a, row in zip(asked, rows, strict=True)
    ]
    encoder.learn((prompt, row["target"]) for prompt, row in zip(prompts, rows, strict=True))
    examples: list[TokenExample] = []
    dropped = 0
    for row, arguments, prompt in zip(rows, asked, prompts, strict=True):
        if encoder.count_tokens(prompt) > reasoning.max_prompt_tokens:
            fitted = fit_prompt(reasoning, *arguments, forced=row["forced"], counter=encoder)
            prompt = fitted.prompt
            dropped += fitted.dropped_passages
        target_ids = encoder.encode_target(prompt, row["target"])
        ids = np.array([*encoder.encode(prompt), *target_ids], dtype=np.int32)
        ability = scheme.names.index(row["ability"])
        examples.append(
            TokenExample(
                row["chain_id"], row["step"], ability, ids, len(target_ids), row["question"]
            )
        )
    examples.sort(key=lambda example: (example.chain_id, example.step))
    return examples, dropped


def _asked(row: Mapping[str, Any]) -> tuple[str, list[list[Passage]], list[str]]:
    """Question, passages by search, and the reasoning so far."""
    passages = [Passage(**passage) for passage in row["passages"]]
    return row["question"], split_searches(passages, row["found"] or ()), row["reasoning"]


def _whole_paths(
    rows: Sequence[Mapping[str, Any]], scheme: AbilityScheme, reasoning: ReasoningConfig
) -> Iterator[dict[str, Any]]:
    """Rows that ask for a chain's whole path at once: of each chain that has its last step."""
    framework = framework_named(reasoning.framework)
    last_step: dict[str, int] = {}
    for row in rows:
        last_step[row["chain_id"]] = max(row["step"], last_step.get(row["chain_id"], 0))
    for row in rows:
        step = row["step"]
        if step != last_step[row["chain_id"]] or row["ability"] != scheme.of(step, step):
            continue
        last = framework.parse(row["target"], forced=row["forced"]).rationale
        target = framework.render_path([*row["reasoning"], last], cue=cue_of(reasoning))
        whole = {"found": (), "reasoning": [], "forced": False, "target": target}
        yield {**row, **whole, "ability": scheme.names[-1]}
