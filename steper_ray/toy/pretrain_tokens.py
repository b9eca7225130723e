"""Tokens of training rows, and batches of them with their tree-shaped attention mask.

Each branch has the positions that it would have had alone after its part of the trunk.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from transformers import PreTrainedTokenizerFast

from steper_ray.reasoning.frameworks.ircot import render_target
from steper_ray.reasoning.frameworks.protocol import STEP_TERMINATOR
from steper_ray.toy.asking import render_prompt
from steper_ray.toy.names import name_parts
from steper_ray.toy.pretrain_rows import Row

QUESTION_HEAD: Final = "Question:"


@dataclass(frozen=True, slots=True)
class TokenRow:
    """Tokens of one row; all lists have one entry a token."""

    ids: list[int]
    positions: list[int]
    branch: list[int]
    """0 for the trunk, 1… for the branches."""
    limit: list[int]
    """Number of trunk tokens that the token may see."""
    labels: list[int]
    """The token to predict next, −100 where nothing is learned."""


def tokenize_row(row: Row, tokenizer: PreTrainedTokenizerFast, names: frozenset[int]) -> TokenRow:
    """Tokens of a row, its trunk first, then its branches.

    names: tokens of name parts (`name_tokens`)
    """

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids

    def trunk_of(count: int) -> str:
        text = render_prompt("", row.passages[:count])
        return text[: text.rindex(QUESTION_HEAD)]

    trunk = encode(trunk_of(len(row.passages)))
    count = len(trunk)
    out = TokenRow(
        list(trunk), list(range(count)), [0] * count, [0] * count, repeated_names(trunk, names)
    )
    for number, branch in enumerate(row.branches, 1):
        limit = len(encode(trunk_of(branch.visible)))
        *before, target = branch.reasoning
        prompt = render_prompt(branch.question, (), before)
        ids = encode(prompt[prompt.rindex(QUESTION_HEAD) :])
        learned = [False] * len(ids)
        ids += encode(render_target(target, forced=False))
        learned += [True] * (len(ids) - len(learned))
        assert ids[-1] == encode(STEP_TERMINATOR)[0]
        out.ids.extend(ids)
        out.positions.extend(range(limit, limit + len(ids)))
        out.branch.extend([number] * len(ids))
        out.limit.extend([limit] * len(ids))
        out.labels.extend(
            [ids[i + 1] if i + 1 < len(ids) and learned[i + 1] else -100 for i in range(len(ids))]
        )
    return out


def repeated_names(trunk: list[int], names: frozenset[int]) -> list[int]:
    """Labels for a trunk: the second part of each name that stood in it before, −100 elsewhere.

    Completing a name from its first part is the simplest copying there is; learned early, it is what
    looking facts up builds on.
    """
    labels = [-100] * len(trunk)
    seen: set[tuple[int, int]] = set()
    for i, pair in enumerate(pairwise(trunk)):
        if pair in seen:
            labels[i] = pair[1]
        elif names.issuperset(pair):
            seen.add(pair)
    return labels


def name_tokens(tokenizer: PreTrainedTokenizerFast) -> frozenset[int]:
    """The tokens that are parts of names."""
    vocabulary = tokenizer.get_vocab()
    return frozenset(vocabulary[f"Ġ{part}"] for part in name_parts().words())


def collate(rows: list[TokenRow], pad: int) -> dict[str, torch.Tensor]:
    """Stack rows: ids, positions and labels (B, T), and the tree mask (B, 1, T, T), true where seen."""
    length = max(len(row.ids) for row in rows)

    def stack(name: str, fill: int) -> torch.Tensor:
        lists = [getattr(row, name) for row in rows]
        return torch.tensor([values + [fill] * (length - len(values)) for values in lists])

    branch, limit = stack("branch", -1), stack("limit", 0)
    index = torch.arange(length)
    causal = index[None, :, None] >= index[None, None, :]
    same = branch[:, :, None] == branch[:, None, :]
    in_trunk = (branch[:, None, :] == 0) & (index[None, None, :] < limit[:, :, None])
    return {
        "input_ids": stack("ids", pad),
        "position_ids": stack("positions", 0),
        "labels": stack("labels", -100),
        "branch": branch,
        "attention_mask": (causal & (same | in_trunk))[:, None],
    }
