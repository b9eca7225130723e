"""Training speed, side by side: packed chains, separate examples, TRL's SFTTrainer, with and without Ray.

    pip install '.[bench]'      on a GPU '.[bench,liger]', and flash-attn where there is a build of it
    python jobs/bench/train.py [--gpu] [--json FILE]

Shapes as in the paper: 5 steps, 4 passages of 100 tokens a step, targets of about 30 tokens, a vocabulary
of 32,000; same prompts in the layout of the framework, same fused AdamW, one worker each. What differs
between a CPU and a GPU is in `Setting`: a Llama of 4 layers × 256 in fp32 there, one of 1.1B parameters in
bf16 here (on one GPU of 40 GB or more, with as much free room in TMPDIR for the checkpoint of the train
stage). Every contender runs in a process of its own, one after the other, and says its losses before the
first update, so that all are seen to train on the same. On 2 cores it takes about 12 minutes.

`tree_token_ratio` is the tokens of the separate examples over those of the prefix trees: how much faster
packing can be where only tokens count. It stands beside every speed-up.

**TRL** is given as much at a time as we are (whole chains), and one example at a time, which is leaner; the
speed is held against the faster of the two, the memory against the former. Its packing gets rows of as
many tokens as our packed pass has, always padding-free, with flash attention where it is installed; Liger,
where installed, is on for all contenders. A line says which of these were on. On a CPU its head computes
the logits of all tokens, for want of Triton; one row shows its packing with the logits of targets alone.

**The worker loop** is the product's own training of the same chains: Ray Train, DeepSpeed's ZeRO-3,
clipping, σ, prepared data. Its first two steps are left out.

**Self-Ask and ReAct** grow their prompts at the end alone, so one linear sequence a chain with all targets
supervised trains on the same; a table sets packing beside it. In IRCoT passages stand before the reasoning,
and no sequence holds all its prompts.

MFU is model FLOPs (see `steper_ray.training.flops`) against the rate of one plain matrix product in the
same process and, where it is known, against the stated peak of the GPU. Only tokens of examples count, not
what rows are filled up with, nor the second forward pass of gradient checkpointing, which is off on a CPU
and on on a GPU, for all contenders alike: with it MFU cannot pass 75 %.

A contender that fails says so in its place, the others still run, and the exit code is 1. The last line is
one JSON object: {figure: {"value": …, "target": …, "holds": …}}. FILE is written anew after each contender.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from train_contenders import CONTENDERS
from train_report import (
    contender_table,
    contenders_of,
    described,
    framework_table,
    is_sound,
    notes,
)
from train_settings import CPU, GPU, Setting

from steper_ray.files import write_whole

QUICK: Final = ["packed chains", "separate examples"]


@contextmanager
def outcome_file() -> Iterator[Path]:
    """Where a contender writes what it measured."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "outcome.json"


def measure(name: str, gpu: bool) -> dict[str, Any]:
    """Run one contender in a process of its own; {"failed": why} if it could not."""
    with outcome_file() as file:
        command = [sys.executable, __file__, "--contender", name, "--json", str(file)]
        command += ["--gpu"] if gpu else []
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            print(f"{name} failed:\n{done.stderr[-3000:]}", file=sys.stderr, flush=True)
            lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            return {"failed": lines[-1]}
        outcome: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return outcome


def unusable(setting: Setting, contender: str | None) -> str | None:
    """Why nothing can be measured here, in one line; None if it can."""
    if (contender is None or contender.startswith("TRL")) and find_spec("trl") is None:
        return "TRL is not installed; pip install '.[bench]'"
    if setting.gpu:
        import torch

        if not torch.cuda.is_available():
            return "--gpu: torch sees no GPU here"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gpu", action="store_true", help="the table of a GPU, on the first one")
    parser.add_argument("--contender", choices=list(CONTENDERS), help="run only this one, here")
    parser.add_argument("--json", type=Path, help="file for what was measured")
    arguments = parser.parse_args()
    setting = GPU if arguments.gpu else CPU
    # Trainer would spread over all that are visible, and TRL refuses that.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    if (obstacle := unusable(setting, arguments.contender)) is not None:
        parser.exit(2, f"{parser.prog}: {obstacle}\n")
    if arguments.contender:
        text = json.dumps(CONTENDERS[arguments.contender](setting))
        if arguments.json:
            arguments.json.write_text(text, encoding="utf-8")
        else:
            print(text)
        return
    outcomes: dict[str, dict[str, Any]] = {}
    order = [*QUICK * setting.rounds, *contenders_of(setting)]
    if setting.rounds:
        order += [name for name in CONTENDERS if ": " in name]
    for number, name in enumerate(order, 1):
        print(f"{number} of {len(order)}: {name}", file=sys.stderr, flush=True)
        outcome = measure(name, arguments.gpu)
        if outcome.get("seconds", 0.0) <= outcomes.get(name, {}).get("seconds", math.inf):
            outcomes[name] = outcome
        record = described(setting, outcomes)
        if arguments.json:
            write_whole(arguments.json, json.dumps(record, indent=2) + "\n")
    for lines in (
        contender_table(setting, outcomes),
        framework_table(outcomes),
        notes(setting, record),
    ):
        print("\n".join(lines), end="\n\n")
    print(json.dumps(record["figures"]))
    if not is_sound(setting, record):
        sys.exit(1)


if __name__ == "__main__":
    main()
