"""Training of the two bundled models from worlds made on the fly; no fact recurs, so none is memorized.

* The *teacher* sees chains of one to four hops, and every contiguous part of each.
* The *base student* sees single look-ups only: it learns to read and to copy, never to chain.
"""

import argparse
import copy
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from steper_ray.toy.pretrain_rows import Searches, chain_row, look_up_row
from steper_ray.toy.pretrain_tokens import TokenRow, collate, name_tokens, tokenize_row
from steper_ray.toy.tokenizer import make_tokenizer
from steper_ray.toy.world import make_world

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
    """Tokens in a batch, padding included."""
    max_hops: int
    """Hops of the longest question that is asked."""
    lr: float = 2e-3
    curriculum: tuple[float, ...] = (0.3, 0.4, 0.5)


RECIPES: Final = {
    "teacher": Recipe(hidden_size=192, layers=4, steps=1600, tokens=6000, max_hops=4),
    "base": Recipe(hidden_size=128, layers=4, steps=700, tokens=6000, max_hops=1),
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
    """Token-mean cross-entropy of the target tokens, and the share of steps with every token right."""
    labels = batch["labels"]
    hidden = model.model(
        input_ids=batch["input_ids"],
        position_ids=batch["position_ids"],
        attention_mask=batch["attention_mask"],
        use_cache=False,
    ).last_hidden_state
    logits = model.lm_head(hidden[labels != -100]).float()
    targets = labels[labels != -100]
    rows, positions = torch.nonzero(labels != -100, as_tuple=True)
    branch = batch["branch"][rows, positions]
    step = (rows * (int(batch["branch"].max()) + 1) + branch)[branch > 0].unique(
        return_inverse=True
    )[1]
    wrong = (logits.argmax(-1) != targets)[branch > 0]
    wrong_steps = torch.bincount(step, weights=wrong) > 0
    return torch.nn.functional.cross_entropy(logits, targets), 1 - wrong_steps.float().mean().item()


def _schedule(optimizer: torch.optim.Optimizer, total: int) -> torch.optim.lr_scheduler.LRScheduler:
    """Linear warm-up, then a cosine decay over `total` steps."""
    warmup = min(100, total // 5 + 1)
    return torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total - warmup, 1e-5),
        ],
        [warmup],
    )


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
    schedule = _schedule(optimizer, total)
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
            remaining = seconds / step * (total - step)
            print(
                f"step {step:,}/{total:,}  loss {loss.item():.3f}  steps right {right:.3f}"
                f"  {tokens / seconds:,.0f} tokens/s  {remaining / 60:.0f} min left",
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
