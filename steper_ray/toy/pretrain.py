"""Trains the two bundled models from worlds made on the fly; nothing is remembered, since no name recurs.

One training row is a *trunk* of passages and several *branches*, each a question with its reasoning
(section 4 of the design notes calls it shared-prefix packing): a branch sees its part of the trunk and
itself, with the positions it would have had alone. All branches of a row share the passages' cost.

* The *teacher* sees chains of one to four hops, and every contiguous part of each.
* The *base student* sees single look-ups only: it learns to read and to copy, never to chain.
"""

import argparse
import copy
import json
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from steper_ray.reasoning.ircot import ANSWER_FLAG, STEP_TERMINATOR, render_prompt, render_target
from steper_ray.schema import Passage
from steper_ray.toy.names import name_parts
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.toy.world import Fact, World, make_world

FIRST_TRAINING_SEED: Final = 1_000_000
"""Worlds with this seed and above are for training; users' worlds have smaller seeds."""

HEADS: Final = 4
HEAD_DIM: Final = 64
ROPE_THETA: Final = 1_000_000.0
"""Matching a name some hundred tokens away takes dimensions that hardly turn over that distance: of 16
pairs with a base of 10,000 four do, of 32 pairs with this base seventeen."""

BLOCK: Final = 20
"""Batches made from one world."""

QUESTION_HEAD: Final = "Question:"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One bundled model and how it is trained."""

    hidden_size: int
    layers: int
    steps: int
    tokens: int
    """Tokens a batch, padding included."""
    max_hops: int
    lr: float


RECIPES: Final = {
    "teacher": Recipe(hidden_size=192, layers=4, steps=700, tokens=6000, max_hops=4, lr=2e-3),
    "base": Recipe(hidden_size=128, layers=4, steps=350, tokens=6000, max_hops=1, lr=2e-3),
}


@dataclass(frozen=True, slots=True)
class Branch:
    """One step of a question, over the first `visible` passages of the trunk."""

    question: str
    reasoning: tuple[str, ...]
    """The true rationales up to and with the one to be learned."""
    visible: int


@dataclass(frozen=True, slots=True)
class Row:
    passages: tuple[Passage, ...]
    branches: tuple[Branch, ...]


def rationales(world: World, chain: tuple[Fact, ...]) -> tuple[str, ...]:
    """The true reasoning of a chain, the last sentence with the answer."""
    sentences = [world.sentence(fact) for fact in chain]
    sentences[-1] += f" {ANSWER_FLAG} {world.entities[chain[-1].object].name}."
    return tuple(sentences)


def make_row(world: World, rng: random.Random, max_hops: int, longest: int) -> Row:
    """Passages as searches would bring them, and single steps of questions about them.

    A step sees what its search brought, confusable passages included, and seldom more: were the next
    passage of the chain in sight, its title would give the answer away, and were the passage of the fact
    always the last, its place would; either way nothing would be looked up.

    longest: hops of the longest chain in the row (the curriculum raises it); 1 takes unrelated
    passages; max_hops: hops of the longest question asked about the chain.
    """
    hops = rng.randint(2, longest) if longest > 1 else 0
    chain = world.random_chain(rng, hops) if hops else ()
    order = [] if hops else rng.sample(range(len(world.entities)), rng.randint(1, 4))
    for hop, fact in enumerate(chain):
        order.append(fact.subject)
        if rng.random() < (0.9 if hop == 0 else 0.1):
            order.append(confusable(world, rng, fact.subject))  # a search ranks it second
    order = list(dict.fromkeys(order))
    starts = [order.index(fact.subject) for fact in chain[1:]] + [len(order)]
    brought = {fact.subject: start for fact, start in zip(chain, starts, strict=True)}

    def branch(part: tuple[Fact, ...], step: int, more: int) -> Branch:
        visible = max(brought.get(part[step].subject, 0), order.index(part[step].subject) + 1)
        visible = min(len(order), visible + more)
        return Branch(world.question_text(part), rationales(world, part)[: step + 1], visible)

    parts = [
        chain[start:end]
        for start in range(len(chain))
        for end in range(start + 1, min(len(chain), start + max_hops) + 1)
    ]
    steps = [(part, step) for part in parts for step in range(len(part))]
    branches = [
        branch(part, step, int(rng.random() < 0.15))
        for part, step in rng.sample(steps, min(len(steps), 8))
    ]
    for _ in range(4 if chain else 10):
        fact = rng.choice(world.entities[rng.choice(order)].facts)
        branches.append(branch((fact,), 0, 0 if chain else rng.randint(0, 3)))
    return Row(tuple(world.passage(entity) for entity in order), tuple(dict.fromkeys(branches)))


def confusable(world: World, rng: random.Random, entity: int) -> int:
    """An entity that shares a name part, as a search would bring it."""
    parts = set(world.entities[entity].name.split())
    while True:
        other = rng.randrange(len(world.entities))
        if other != entity and parts & set(world.entities[other].name.split()):
            return other


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row as numbers; all lists have one entry a token."""

    ids: list[int]
    positions: list[int]
    branch: list[int]
    """0 for the trunk, 1… for the branches."""
    limit: list[int]
    """How many trunk tokens the token may see."""
    labels: list[int]
    """The token to predict next, −100 where nothing is learned."""


def tokenize_row(row: Row, tokenizer: PreTrainedTokenizerFast) -> TokenRow:
    """Lay a row out: trunk first, then its branches."""

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text)["input_ids"]
        return ids

    def trunk_of(count: int) -> str:
        text = render_prompt("", row.passages[:count])
        return text[: text.rindex(QUESTION_HEAD)]

    trunk = encode(trunk_of(len(row.passages)))
    count = len(trunk)
    out = TokenRow(
        list(trunk), list(range(count)), [0] * count, [0] * count, repeated_names(trunk, tokenizer)
    )
    for number, branch in enumerate(row.branches, 1):
        limit = len(encode(trunk_of(branch.visible)))
        *before, wanted = branch.reasoning
        prompt = render_prompt(branch.question, (), before)
        ids = encode(prompt[prompt.rindex(QUESTION_HEAD) :])
        learned = [False] * len(ids)
        ids += encode(render_target(wanted, forced=False))
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


def repeated_names(trunk: list[int], tokenizer: PreTrainedTokenizerFast) -> list[int]:
    """Labels for a trunk: the second part of each name that stood in it before, −100 elsewhere.

    Completing a name from its first part is the simplest copying there is; learned early, it is what
    looking facts up builds on.
    """
    parts = {part for slots in name_parts().values() for slot in slots for part in slot}
    vocabulary = tokenizer.get_vocab()
    names = {vocabulary[f"Ġ{part}"] for part in parts}
    labels = [-100] * len(trunk)
    seen: set[tuple[int, int]] = set()
    for i, pair in enumerate(pairwise(trunk)):
        if pair in seen:
            labels[i] = pair[1]
        elif names.issuperset(pair):
            seen.add(pair)
    return labels


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
        "attention_mask": (causal & (same | in_trunk))[:, None],
    }


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, total: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """`total` batches; each block of `BLOCK` comes from a new world and is cut by length."""
    rng = random.Random(f"pretrain {seed}")
    for first in range(0, total, BLOCK):
        world = make_world(FIRST_TRAINING_SEED + 10_000 * seed + first // BLOCK)
        longest = 1 + sum(first >= total * share for share in (0.4, 0.5, 0.6))
        rows: list[TokenRow] = []
        while sum(len(row.ids) for row in rows) < BLOCK * recipe.tokens:
            rows.append(tokenize_row(make_row(world, rng, recipe.max_hops, longest), tokenizer))
        rows.sort(key=lambda row: len(row.ids))
        groups: list[list[TokenRow]] = [[]]
        for row in rows:
            if (len(groups[-1]) + 1) * len(row.ids) > recipe.tokens:
                groups.append([])
            groups[-1].append(row)
        groups = groups[:BLOCK]
        rng.shuffle(groups)
        for group in groups[: total - first]:
            yield collate(group, tokenizer.pad_token_id)


def make_model(recipe: Recipe, vocabulary: int, eos: int, pad: int) -> Qwen3ForCausalLM:
    """A Qwen3 of the recipe's size, fp32, random weights."""
    config = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=recipe.hidden_size,
        intermediate_size=recipe.hidden_size * 8 // 3,
        num_hidden_layers=recipe.layers,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        eos_token_id=eos,
        pad_token_id=pad,
        bos_token_id=None,
    )
    return Qwen3ForCausalLM(config)


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token-mean cross-entropy of the learned tokens, and the share of them predicted right."""
    labels = batch["labels"]
    hidden = model.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[labels != -100]).float()
    wanted = labels[labels != -100]
    return (
        torch.nn.functional.cross_entropy(logits, wanted),
        (logits.argmax(-1) == wanted).float().mean(),
    )


def pretrain(
    name: str, out: Path, *, seed: int = 0, steps: int | None = None, start: Path | None = None
) -> None:
    """Train one bundled model and write it as a Hugging Face folder (bfloat16 safetensors)."""
    recipe = RECIPES[name]
    total = steps or recipe.steps
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(recipe, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
    if start is not None:
        model = Qwen3ForCausalLM.from_pretrained(start, dtype=torch.float32)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.01
    )
    warmup = min(100, total // 5 + 1)
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup, 1e-5),
        ],
        [warmup],
    )
    out.mkdir(parents=True, exist_ok=True)
    started, tokens = time.monotonic(), 0
    parameters = sum(p.numel() for p in model.parameters())
    print(
        f"{name}: {parameters:,} parameters, {total:,} steps of {recipe.tokens:,} tokens",
        flush=True,
    )
    for step, batch in enumerate(batches(recipe, tokenizer, total, seed), 1):
        with torch.autocast("cpu", torch.bfloat16):
            loss, accuracy = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += batch["input_ids"].numel()
        if step % 25 == 0 or step == total:
            seconds = time.monotonic() - started
            left = seconds / step * (total - step)
            print(
                f"step {step:,}/{total:,}  loss {loss.item():.3f}  tokens right {accuracy.item():.3f}"
                f"  {tokens / seconds:,.0f} tokens/s  {left / 60:.0f} min left",
                flush=True,
            )
        if step % 100 == 0 or step == total:
            save(model, out)
    (out / "pretraining.json").write_text(
        json.dumps({"steps": total, "seed": seed, "minutes": (time.monotonic() - started) / 60})
    )


def save(model: Qwen3ForCausalLM, out: Path) -> None:
    """Write weights in bfloat16, with the tokenizer beside them."""
    half: Any = copy.deepcopy(model)
    half.to(torch.bfloat16).save_pretrained(out)
    make_tokenizer().save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=sorted(RECIPES))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--start", type=Path, help="go on from these weights")
    arguments = parser.parse_args()
    pretrain(
        arguments.name,
        arguments.out,
        seed=arguments.seed,
        steps=arguments.steps,
        start=arguments.start,
    )


if __name__ == "__main__":
    main()
