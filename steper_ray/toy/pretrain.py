"""Trains the two bundled models from worlds made on the fly; nothing is remembered, since no fact recurs.

One training row is a *trunk* of passages and several *branches*, each a question with its reasoning: a
branch sees its part of the trunk and itself, with the positions it would have had alone. All branches
of a row share the passages' cost.

* The *teacher* sees chains of one to four hops, and every contiguous part of each.
* The *base student* sees single look-ups only: it learns to read and to copy, never to chain.
"""

import argparse
import copy
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from steper_ray.reasoning.frameworks.ircot import ANSWER_FLAG, render_prompt, render_target
from steper_ray.reasoning.frameworks.protocol import STEP_TERMINATOR
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

EMBEDDING_STD: Final = 0.06
"""Three times the usual: with tied embeddings a copied token then wins over the vocabulary at once,
however seldom it was seen."""

BLOCK: Final = 20
"""Batches made from one world."""

QUESTION_HEAD: Final = "Question:"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One bundled model and how it is trained.

    Rows begin with single look-ups; chains of two, three and four hops join at the shares of training
    that `curriculum` names. Asked for whole chains at once, nothing is learned.
    """

    hidden_size: int
    layers: int
    steps: int
    tokens: int
    """Tokens a batch, padding included."""
    max_hops: int
    """Hops of the longest question that is asked."""
    lr: float = 2e-3
    curriculum: tuple[float, ...] = (0.3, 0.4, 0.5)


RECIPES: Final = {
    "teacher": Recipe(hidden_size=192, layers=4, steps=1600, tokens=6000, max_hops=4),
    "base": Recipe(hidden_size=128, layers=4, steps=700, tokens=6000, max_hops=1),
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


class Searches:
    """What searches bring in one world, near enough: the entity, and another that shares its name."""

    def __init__(self, world: World, rng: random.Random) -> None:
        self.world, self.rng = world, rng
        self._kinds: dict[str, list[int]] = {}
        self._families: dict[str, list[int]] = {}
        for number, entity in enumerate(world.entities):
            self._kinds.setdefault(entity.kind, []).append(number)
            self._families.setdefault(entity.name.split()[1], []).append(number)

    def peer(self, entity: int) -> int:
        """Any entity of the same kind."""
        return self.rng.choice(self._kinds[self.world.entities[entity].kind])

    def namesake(self, entity: int) -> int:
        """An entity with the same family part; the entity itself if there is no other."""
        return self.rng.choice(self._families[self.world.entities[entity].name.split()[1]])


def look_up_row(searches: Searches) -> Row:
    """Passages in no order, each asked for its facts; others state the same kind of fact, or share a
    name, so nothing but name and verb together tell which fact is meant.
    """
    world, rng = searches.world, searches.rng
    order: list[int] = []
    for _ in range(rng.randint(1, 2)):
        entity = rng.randrange(len(world.entities))
        other = searches.peer(entity) if rng.random() < 0.75 else searches.namesake(entity)
        order += [entity, other]
    order = list(dict.fromkeys(order))
    rng.shuffle(order)
    branches = []
    for _ in range(10):
        place = rng.randrange(len(order))
        chain = (rng.choice(world.entities[order[place]].facts),)
        visible = rng.randint(place + 1, len(order))
        branches.append(Branch(world.question_text(chain), rationales(world, chain), visible))
    return Row(tuple(world.passage(entity) for entity in order), tuple(dict.fromkeys(branches)))


def chain_row(searches: Searches, hops: int, max_hops: int) -> Row:
    """A chain's passages in the order in which the loop's searches bring them, and steps along it.

    The question's search brings the first entity and one that shares its name, each later one the
    next entity. A step sees what the searches before it brought and seldom more: were the next
    passage in sight, its title would give the answer away. No question has more than `max_hops` hops.
    """
    world, rng = searches.world, searches.rng
    chain = world.random_chain(rng, hops)
    order = [chain[0].subject, searches.namesake(chain[0].subject)]
    for fact in chain[1:]:
        order.append(fact.subject)
        if rng.random() < 0.1:
            order.append(searches.peer(fact.subject))
    order = list(dict.fromkeys(order))
    if rng.random() < 0.15:
        order[:2] = reversed(order[:2])
    ends = [order.index(fact.subject) for fact in chain[1:]] + [len(order)]
    visible = dict(zip(chain, ends, strict=True))

    def branch(part: tuple[Fact, ...], step: int) -> Branch:
        more = rng.random() < 0.1
        seen = max(order.index(part[step].subject) + 1, min(len(order), visible[part[step]] + more))
        return Branch(world.question_text(part), rationales(world, part)[: step + 1], seen)

    parts = [
        chain[start:end]
        for start in range(hops)
        for end in range(start + 1, min(hops, start + max_hops) + 1)
    ]
    steps = [(part, step) for part in parts for step in range(len(part))]
    branches = [branch(part, step) for part, step in rng.sample(steps, min(len(steps), 12))]
    return Row(tuple(world.passage(entity) for entity in order), tuple(dict.fromkeys(branches)))


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


def tokenize_row(row: Row, tokenizer: PreTrainedTokenizerFast, names: frozenset[int]) -> TokenRow:
    """Lay a row out: trunk first, then its branches; `names` are the tokens of name parts."""

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


def batches(
    recipe: Recipe, tokenizer: PreTrainedTokenizerFast, total: int, seed: int
) -> Iterator[dict[str, torch.Tensor]]:
    """`total` batches; each block of `BLOCK` comes from a new world and is cut by length."""
    rng = random.Random(f"pretrain {seed}")
    names = name_tokens(tokenizer)
    for first in range(0, total, BLOCK):
        world = make_world(FIRST_TRAINING_SEED + 10_000 * seed + first // BLOCK)
        searches = Searches(world, rng)
        longest = 1 + sum(first >= total * share for share in recipe.curriculum)
        rows: list[TokenRow] = []
        while sum(len(tokens.ids) for tokens in rows) < BLOCK * recipe.tokens:
            hops = rng.randint(1, longest)
            row = look_up_row(searches) if hops == 1 else chain_row(searches, hops, recipe.max_hops)
            rows.append(tokenize_row(row, tokenizer, names))
        rows.sort(key=lambda tokens: len(tokens.ids))
        groups: list[list[TokenRow]] = [[]]
        for tokens in rows:
            if (len(groups[-1]) + 1) * len(tokens.ids) > recipe.tokens:
                groups.append([])
            groups[-1].append(tokens)
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
    model = Qwen3ForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=EMBEDDING_STD)
    return model


def loss_of(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, float]:
    """Token-mean cross-entropy of the learned tokens, and the share of steps with every token right."""
    labels = batch["labels"]
    hidden = model.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[labels != -100]).float()
    wanted = labels[labels != -100]
    rows, places = torch.nonzero(labels != -100, as_tuple=True)
    branch = batch["branch"][rows, places]
    step = (rows * (int(batch["branch"].max()) + 1) + branch)[branch > 0].unique(
        return_inverse=True
    )[1]
    wrong = (logits.argmax(-1) != wanted)[branch > 0]
    wrong_steps = torch.bincount(step, weights=wrong) > 0
    return torch.nn.functional.cross_entropy(logits, wanted), 1 - wrong_steps.float().mean().item()


def pretrain(name: str, out: Path, *, seed: int = 0, steps: int | None = None) -> None:
    """Train one bundled model and write it as a Hugging Face folder (bfloat16 safetensors)."""
    recipe = RECIPES[name]
    total = steps or recipe.steps
    torch.manual_seed(seed)
    tokenizer = make_tokenizer()
    model = make_model(recipe, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id)
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
            loss, right = loss_of(model, batch)
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
                f"step {step:,}/{total:,}  loss {loss.item():.3f}  steps right {right:.3f}"
                f"  {tokens / seconds:,.0f} tokens/s  {left / 60:.0f} min left",
                flush=True,
            )
        if step % 100 == 0 or step == total:
            save(model, out)
    minutes = (time.monotonic() - started) / 60
    print(f"{name}: {minutes:.0f} minutes → {out}", flush=True)


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
    arguments = parser.parse_args()
    pretrain(arguments.name, arguments.out, seed=arguments.seed, steps=arguments.steps)


if __name__ == "__main__":
    main()
