"""The contenders of `train.py`, each in its setting, by name.

Each is the whole of a process: it builds the model, trains for a few steps, and returns
{"seconds": of a step, "peak": bytes, "tree_token_ratio": tokens of separate examples / of the prefix trees,
…}, and the losses before the first update: "losses" of the examples, or, of the worker loops,
"ability_losses".
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from train_chains import STEPS, linear_ids, make_chains, separate_tokens, tree_tokens
from train_settings import Setting
from train_with_trl import run_trl
from train_worker_loop import run_loop_under_ray, run_loop_without_ray
from train_workload import LR, liger_obstacle, make_model, now, peak_memory, utilisation

from steper_ray.training.packing import prefix_tree
from steper_ray.training.tokenization import TokenExample

if TYPE_CHECKING:
    import torch

    from steper_ray.training.tensors import Batch

Layout = Literal["packed", "separate", "linear"]


def run_ours(setting: Setting, *, layout: Layout, framework: str) -> dict[str, Any]:
    """Our loss, in a plain loop.

    layout: chains packed as prefix trees, each example on its own, or, where the framework allows it, each
            chain as one causal sequence with all its targets supervised, as trainers of agents do
    """
    import torch

    from steper_ray.training.attention import ATTENTION
    from steper_ray.training.student import StudentLoss

    model = make_model(setting)
    if liger_obstacle(setting) is None:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        _apply_liger_kernel_to_instance(
            model, cross_entropy=False, fused_linear_cross_entropy=False
        )
    if layout == "packed":
        model.set_attn_implementation(ATTENTION)
    if setting.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    student = StudentLoss(model)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=0.0, fused=True)
    chains = make_chains(framework, setting.chains)
    weight = 1 / (setting.chains * STEPS)
    device = torch.device(setting.device)
    loss_of: dict[tuple[str, int], float] = {}
    seconds = []
    for step in range(setting.steps):
        started = now(setting)
        for first in range(0, setting.chains, setting.together):
            group = chains[first : first + setting.together]
            for examples, batch in batches(group, layout, weight, device):
                loss, nll_E, _ = student(batch)
                loss.backward()
                if step == 0:
                    places = [(example.chain_id, example.step) for example in examples]
                    loss_of |= zip(places, nll_E.tolist(), strict=True)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(now(setting) - started)
    median = statistics.median(seconds[1:])
    units = chains if layout != "separate" else [[e] for chain in chains for e in chain]
    return {
        "seconds": median,
        "losses": [loss_of[e.chain_id, e.step] for chain in chains for e in chain],
        "abilities": [e.ability for chain in chains for e in chain],
        "tree_token_ratio": separate_tokens(chains) / tree_tokens(chains),
        "peak": peak_memory(setting),
    } | utilisation(setting, units, median)


def batches(
    group: Sequence[Sequence[TokenExample]], layout: Layout, weight: float, device: "torch.device"
) -> "list[tuple[list[TokenExample], Batch]]":
    """What goes through the model for these chains, one after the other, and its examples in order.

    weight: of each example's token-mean loss
    """
    from steper_ray.training.tensors import packed_batch, padded_batch

    weights = [weight] * (len(group) * STEPS)
    examples = [example for chain in group for example in chain]
    if layout == "packed":
        trees = [prefix_tree([example.ids for example in chain]) for chain in group]
        return [(examples, packed_batch(group, trees, weights, 0, device))]
    if layout == "linear":
        return [(examples, linear_batch(group, weights, device))]
    # Examples of the same step are equally long, so that none is filled up.
    return [
        (list(alike), padded_batch(alike, weights[: len(alike)], 0, device))
        for alike in zip(*group, strict=True)
    ]


def linear_batch(
    chains: Sequence[Sequence[TokenExample]], weights: Sequence[float], device: "torch.device"
) -> "Batch":
    """One causal row a chain, its targets supervised where they stand and its prompts not.

    weights: of each example's token-mean loss, in order
    """
    import torch

    from steper_ray.training.tensors import Batch

    rows = [linear_ids(chain) for chain in chains]
    length = max(map(len, rows))
    ids_BT = np.zeros((len(rows), length), dtype=np.int64)
    at, target_ids = [], []
    for row, (ids, chain) in enumerate(zip(rows, chains, strict=True)):
        ids_BT[row, : len(ids)] = ids
        for example in chain:
            end, target = len(example.ids), example.target_tokens
            at.append(row * length + np.arange(end - target - 1, end - 1))
            target_ids.append(ids[end - target : end])
    targets = [example.target_tokens for chain in chains for example in chain]
    of_token = [weight / target for weight, target in zip(weights, targets, strict=True)]
    owner = torch.repeat_interleave(torch.arange(len(targets)), torch.tensor(targets))
    return Batch(
        ids_BT=torch.from_numpy(ids_BT).to(device),
        position_BT=None,
        packed=None,
        at_P=torch.from_numpy(np.concatenate(at)).to(device),
        target_P=torch.from_numpy(np.concatenate(target_ids).astype(np.int64)).to(device),
        example_P=owner.to(device),
        weight_P=torch.tensor(of_token)[owner].to(device),
        examples=len(targets),
    )


LINEAR: Final = {"Self-Ask": "self_ask", "ReAct": "react"}
"""Frameworks whose prompts grow at their end alone, by the names in the tables."""


LAYOUTS: Final[dict[str, Layout]] = {
    "packed chains": "packed",
    "separate examples": "separate",
    "one linear sequence": "linear",
}


Contender = Callable[[Setting], dict[str, Any]]


def ours(layout: Layout, framework: str) -> Contender:
    """`run_ours` with its layout."""
    return partial(run_ours, layout=layout, framework=framework)


CONTENDERS: Final[dict[str, Contender]] = {
    "packed chains": ours("packed", "ircot"),
    "separate examples": ours("separate", "ircot"),
    "TRL, whole chains at a time": lambda setting: run_trl(setting, batch=setting.together * STEPS),
    "TRL, an example at a time": lambda setting: run_trl(setting, batch=1),
    "TRL, packing": lambda setting: run_trl(setting, packing=True, batch=1),
    "TRL, packing, logits of targets only": lambda setting: run_trl(
        setting, packing=True, batch=1, compact=True
    ),
    "worker loop without Ray": run_loop_without_ray,
    "worker loop under Ray Train": run_loop_under_ray,
} | {
    f"{shown}: {name}": ours(layout, framework)
    for shown, framework in LINEAR.items()
    for name, layout in LAYOUTS.items()
}
