"""Step-wise examples → token ids in memory, what `steper_ray.training.preparation` writes to disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steper_ray.reasoning.batch_encoder import BatchEncoder
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.selection.abilities import STEPER, AbilityScheme
from steper_ray.training.tokenization import (
    TokenExample,
    check_present,
    read_rows,
    tokenize_rows,
    trained_abilities,
)


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

    @property
    def ability_E(self) -> list[int]:
        """Ability of each example."""
        return [example.ability for example in self.examples]

    def question(self, index: int) -> str:
        """Question of an example."""
        return self.examples[index].question


def tokenize_examples(
    files: Sequence[Path],
    tokenizer: Any,
    *,
    reasoning: ReasoningConfig,
    scheme: AbilityScheme = STEPER,
    abilities: Sequence[str] | None = None,
    whole_path: bool = False,
) -> TokenizedData:
    """Render, fit and tokenize every example in memory; see `tokenize_rows`.

    files:     from `stepwise_files`
    tokenizer: the student's, from transformers

    Raises InputError if one of `abilities` has no example, or no chain has its last step.
    """
    encoder = BatchEncoder(tokenizer, reasoning.chat, reasoning.template_date)
    names = trained_abilities(scheme, abilities, whole_path=whole_path)
    examples, dropped = tokenize_rows(
        list(read_rows(files, scheme.names)),
        encoder,
        reasoning=reasoning,
        scheme=scheme,
        abilities=names,
        whole_path=whole_path,
    )
    present = {scheme.names[example.ability] for example in examples}
    check_present(names, present, files[0].parent)
    chains: dict[str, list[int]] = {}
    for index, example in enumerate(examples):
        chains.setdefault(example.chain_id, []).append(index)
    return TokenizedData(examples, list(chains.values()), dropped, scheme.names)
