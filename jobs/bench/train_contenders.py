"""The contenders of `train.py`, each in its setting, by name.

Each is the whole of a process: it builds the model, trains for a few steps, and returns
{"seconds": of a step, "losses": of the examples before the first update, "peak": bytes, …}; the worker
loops return {"tokens_per_second": …, "peak": bytes, …}.
"""

import statistics
from collections.abc import Callable
from typing import Any, Final

from train_settings import Setting
from train_with_trl import run_trl
from train_worker_loop import run_loop_under_ray, run_loop_without_ray
from train_workload import (
    LR,
    STEPS,
    TARGET_TOKENS,
    make_chains,
    make_model,
    now,
    peak_memory,
    split,
    utilisation,
)


def run_ours(setting: Setting, packed: bool) -> dict[str, Any]:
    """Our loss, in a plain loop."""
    import torch

    from steper_ray.training.attention import ATTENTION
    from steper_ray.training.packing import prefix_tree
    from steper_ray.training.student import StudentLoss
    from steper_ray.training.tensors import packed_batch, padded_batch
    from steper_ray.training.tokenization import TokenExample

    model = make_model(setting)
    if packed:
        model.set_attn_implementation(ATTENTION)
    if setting.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    student = StudentLoss(model)
    optimizer = torch.optim.AdamW(student.parameters(), lr=LR, weight_decay=0.0, fused=True)
    chains = [
        [TokenExample(str(c), s, 0, ids, TARGET_TOKENS) for s, ids in enumerate(chain)]
        for c, chain in enumerate(make_chains(setting))
    ]
    weight = 1 / (setting.chains * STEPS)
    device = torch.device(setting.device)
    loss_of: dict[tuple[str, int], float] = {}
    seconds = []
    for step in range(setting.steps):
        started = now(setting)
        for first in range(0, setting.chains, setting.together):
            group = chains[first : first + setting.together]
            # Examples of the same step are equally long, so that none is filled up.
            layouts = (
                [group]
                if packed
                else [[[e] for e in examples] for examples in zip(*group, strict=True)]
            )
            for layout in layouts:
                examples = [example for part in layout for example in part]
                weights = [weight] * len(examples)
                if packed:
                    trees = [prefix_tree([example.ids for example in part]) for part in layout]
                    batch = packed_batch(layout, trees, weights, 0, device)
                else:
                    batch = padded_batch(examples, weights, 0, device)
                loss, nll_E, _ = student(batch)
                loss.backward()
                if step == 0:
                    places = [(example.chain_id, example.step) for example in examples]
                    loss_of |= zip(places, nll_E.tolist(), strict=True)
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(now(setting) - started)
    ids = [[example.ids for example in chain] for chain in chains]
    return {
        "seconds": statistics.median(seconds[1:]),
        "losses": [
            loss_of[example.chain_id, example.step] for chain in chains for example in chain
        ],
        "peak": peak_memory(setting),
    } | utilisation(setting, model, ids if packed else split(ids), seconds)


CONTENDERS: Final[dict[str, Callable[[Setting], dict[str, Any]]]] = {
    "packed chains": lambda setting: run_ours(setting, packed=True),
    "separate examples": lambda setting: run_ours(setting, packed=False),
    "TRL, whole chains at a time": lambda setting: run_trl(
        setting, packing=False, batch=setting.together * STEPS
    ),
    "TRL, an example at a time": lambda setting: run_trl(setting, packing=False, batch=1),
    "TRL, packing": lambda setting: run_trl(setting, packing=True, batch=1),
    "worker loop without Ray": run_loop_without_ray,
    "worker loop under Ray Train": run_loop_under_ray,
}
