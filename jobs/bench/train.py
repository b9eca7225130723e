"""Training speed, side by side: packed chains, separate examples, TRL's SFTTrainer, with and without Ray.

    pip install '.[bench]'
    python jobs/bench/train.py [--gpu] [--json FILE]

Shapes as in the paper: 5 steps, 4 passages of about 100 tokens a step, targets of about 30 tokens, a
vocabulary of 32,000; same random tokens, same fused AdamW, one worker each. What differs between a CPU and
a GPU is in `Setting`: a Llama of 4 layers × 256 in fp32 there, one of 1.1B parameters in bf16 here (on one
GPU of 40 GB or more, with as much free room in TMPDIR for the checkpoint of the train stage).
Every contender runs in a process of its own, one after the other, and says its losses before the first
update, so that all are seen to train on the same. On 2 cores it takes about 8 minutes.

TRL is given as much at a time as we are (whole chains), and one example at a time, which is leaner; the
speed is held against the faster of the two, the memory against the former. Its attention is torch's, as
ours is for separate examples; FlexAttention is used for packed chains on a GPU.

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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from train_contenders import CONTENDERS
from train_settings import CPU, GPU, Setting
from train_workload import STEPS

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


def figures(setting: Setting, outcomes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The ratios that the targets are about; null where a contender failed or is still to come."""
    rows = [outcomes.get(name, {}) for name in CONTENDERS]
    seconds, peaks, rates, mfus, of_peak = (
        [math.nan if row.get(key) is None else row[key] for row in rows]
        for key in ("seconds", "peak", "tokens_per_second", "mfu", "mfu_of_stated_peak")
    )
    ours, separate, chain, single, trl_packed, plain, under_ray = range(len(rows))
    trl = float(np.minimum(seconds[chain], seconds[single]))
    values = {
        "vs_trl": trl / seconds[ours],
        "vs_trl_packed": seconds[trl_packed] / seconds[ours],
        "memory_vs_trl": peaks[ours] / peaks[chain],
        "vs_separate": seconds[separate] / seconds[ours],
        "ray_efficiency": rates[under_ray] / rates[plain],
        "mfu": mfus[ours],
        "mfu_of_stated_peak": of_peak[ours],
    }
    out: dict[str, dict[str, Any]] = {}
    for name, value in values.items():
        target, kind = setting.targets.get(name, (None, ""))
        known = None if math.isnan(value) else round(value, 3)
        holds = None
        if target is not None and known is not None:
            holds = value >= target if kind == "at least" else value <= target
        out[name] = {"value": known, "target": target, "holds": holds}
    return out


def losses_apart(outcomes: dict[str, dict[str, Any]]) -> dict[str, float]:
    """How far each contender's losses are from those of packed chains at most, relative."""
    reference = np.array(outcomes["packed chains"].get("losses", ()))
    return {
        name: float(np.abs(np.array(outcome["losses"]) / reference - 1).max())
        for name, outcome in outcomes.items()
        if len(reference) and outcome.get("losses") and name != "packed chains"
    }


def described(setting: Setting, outcomes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All that is known when these have been measured."""
    packages = ("torch", "transformers", "trl", "deepspeed", "ray")
    ours = outcomes["packed chains"]
    return {
        "date": date.today().isoformat(),
        "device": ours.get("device"),
        "parameters": ours.get("parameters"),
        "versions": {name: version(name) for name in packages},
        "outcomes": outcomes,
        "losses_apart": losses_apart(outcomes),
        "figures": figures(setting, outcomes),
    }


def table_row(setting: Setting, name: str, outcome: Mapping[str, Any]) -> str:
    """A contender's line."""
    if "failed" in outcome:
        return f"| {name} | failed: {outcome['failed']} | | |"
    if "seconds" in outcome:
        speed = f"{setting.chains * STEPS / outcome['seconds']:,.2f} examples/s"
    else:
        speed = f"{outcome['tokens_per_second']:,.0f} tokens/s"
    shares = [(outcome.get("mfu"), ""), (outcome["mfu_of_stated_peak"], " of the stated peak")]
    mfu = ", ".join(f"{share:.1%}{what}" for share, what in shares if share is not None)
    return f"| {name} | {speed} | {outcome['peak'] / 2**30:.2f} GiB | {mfu or '–'} |"


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
    order = [*QUICK * setting.rounds, *CONTENDERS]
    for number, name in enumerate(order, 1):
        print(f"{number} of {len(order)}: {name}", file=sys.stderr, flush=True)
        outcome = measure(name, arguments.gpu)
        if outcome.get("seconds", 0.0) <= outcomes.get(name, {}).get("seconds", math.inf):
            outcomes[name] = outcome
        found = described(setting, outcomes)
        if arguments.json:
            write_whole(arguments.json, json.dumps(found, indent=2) + "\n")
    ours = outcomes["packed chains"]
    print("| | speed | peak memory | MFU |\n|---|---|---|---|")
    for name, outcome in outcomes.items():
        print(table_row(setting, name, outcome))
    print()
    if "failed" not in ours:
        print(
            f"{found['date']}, {ours['device']}, {ours['parameters']:,} parameters in "
            f"{'bf16' if setting.bf16 else 'fp32'}, {setting.chains} chains a step, gradient "
            f"checkpointing {'on' if setting.gradient_checkpointing else 'off'}, "
            f"{', '.join(f'{name} {number}' for name, number in found['versions'].items())}"
        )
        print(
            f"packed chains: {ours['flops'] / ours['seconds'] / 1e9:,.0f} GFLOP/s of model work, plain "
            f"{setting.product:,} × {setting.product:,} products {ours['mm_rate'] / 1e9:,.0f} GFLOP/s"
        )
    apart = found["losses_apart"]
    for name, most in apart.items():
        print(
            f"losses of {name} and of packed chains differ by at most {most:.1e} "
            f"(allowed: {setting.tolerance:.0e})"
        )
    print(json.dumps(found["figures"]))
    failed = any("failed" in outcome for outcome in outcomes.values())
    if failed or any(most > setting.tolerance for most in apart.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
