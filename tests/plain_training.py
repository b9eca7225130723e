"""Training with torch and transformers alone: one example at a time, all logits, autograd."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steper_ray.schema import StepExample
from steper_ray.selection.abilities import STEPER

if TYPE_CHECKING:
    import torch

Encode = Callable[[StepExample], tuple[list[int], list[int]]]
"""The ids of an example's prompt and of its target."""


@dataclass(frozen=True)
class Reference:
    """One global batch."""

    loss: float
    loss_A: list[float]
    gradients: dict[str, torch.Tensor]
    """Of the loss over the sum of the abilities' weights."""

    @property
    def gradient_norm(self) -> float:
        squares = [float(gradient.double().square().sum()) for gradient in self.gradients.values()]
        return math.sqrt(sum(squares))


def reference(
    model: Any,
    examples: Sequence[StepExample],
    sigma_A: Sequence[float],
    abilities: Sequence[str] = STEPER.names,
    *,
    encode: Encode,
) -> Reference:
    """The loss Σ_j [ L_j / (2σ_j²) + log σ_j ] over all the examples given, and the gradients over
    Σ_j 1/(2σ_j²); they are also the model's."""
    import torch

    model.zero_grad()
    losses: dict[str, list[torch.Tensor]] = {}
    for example in examples:
        prompt, target = encode(example)
        logits = model(torch.tensor([prompt + target])).logits[0, len(prompt) - 1 : -1]
        # in fp64: over 49,152 words torch's own sum in fp32 is off by 2e-5
        nll = torch.nn.functional.cross_entropy(logits.double(), torch.tensor(target))
        losses.setdefault(example.ability, []).append(nll)
    means = [torch.stack(losses[ability]).mean() for ability in abilities]
    terms = [m / (2 * s**2) + math.log(s) for m, s in zip(means, sigma_A, strict=True)]
    loss = torch.stack(terms).sum()
    loss.backward()
    total = sum(1 / (2 * s**2) for s in sigma_A)
    for parameter in model.parameters():
        parameter.grad /= total
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    return Reference(loss.item(), [mean.item() for mean in means], gradients)


@dataclass(frozen=True)
class Mix:
    """Rows that every step learns beside the examples."""

    rows: Sequence[tuple[list[int], list[int]]]
    """The ids of each, and the positions of those that are learned."""
    weight: float


def add_mix(model: Any, mix: Mix) -> float:
    """Add the gradient of the rows' loss to that of the examples, both scaled; returns the loss.

    The examples' gradient counts 1 and the rows' `weight`, over 1 + `weight`.
    """
    import torch

    losses = []
    for ids, learned in mix.rows:
        logits = model(torch.tensor([ids])).logits[0].double()
        nll = torch.nn.functional.cross_entropy(
            logits[:-1], torch.tensor(ids[1:]), reduction="none"
        )
        losses.append(nll[torch.tensor(learned) - 1].mean())
    loss = torch.stack(losses).mean()
    (mix.weight * loss).backward()
    for parameter in model.parameters():
        parameter.grad /= 1 + mix.weight
    return loss.item()


@dataclass(frozen=True)
class PlainStep:
    """One optimizer step; σ is that after the step."""

    loss: float
    """With the mix."""
    loss_A: list[float]
    sigma_A: list[float]
    gradient_norm: float
    mix_loss: float | None


def train(
    folder: Path,
    examples: Sequence[StepExample],
    steps: int,
    *,
    lr: float,
    sigma_lr: float,
    encode: Encode,
    mix: Mix | None = None,
) -> tuple[list[PlainStep], Any]:
    """Trains on all examples at once: AdamW, warmup of one step, clipping at 1; returns the model too."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    logs = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
    sigma_optimizer = torch.optim.Adam(logs, lr=sigma_lr)
    done = []
    for step in range(steps):
        sigma_A = [math.exp(log) for log in logs]
        work = reference(model, examples, sigma_A, encode=encode)
        mix_loss = add_mix(model, mix) if mix else None
        total = work.loss + (mix.weight * mix_loss if mix and mix_loss else 0.0)
        norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0))
        half_turns = max(0, step - 1) / (steps - 1)
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(math.pi * half_turns)) / 2
        optimizer.step()
        for log, loss, sigma in zip(logs, work.loss_A, sigma_A, strict=True):
            log.grad = torch.tensor(1 - loss / sigma**2, dtype=torch.float64)
        sigma_optimizer.step()
        after = [math.exp(log) for log in logs]
        done.append(PlainStep(total, work.loss_A, after, norm, mix_loss))
    return done, model
