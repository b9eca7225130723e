"""What `train.py` makes of the contenders' outcomes: the figures with a target, the tables, the record."""

import math
from collections.abc import Mapping
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import numpy as np
from train_chains import STEPS
from train_contenders import CONTENDERS, LINEAR
from train_settings import Setting

Outcomes = Mapping[str, Mapping[str, Any]]

PACKAGES: Final = ("torch", "transformers", "trl", "deepspeed", "ray", "liger-kernel", "flash-attn")

OURS: Final = "packed chains"

SEPARATE: Final = "separate examples"

UNDER_RAY: Final = "worker loop under Ray Train"

NO_LINEAR: Final = "none is equivalent: passages stand before the reasoning"


def figures(setting: Setting, outcomes: Outcomes) -> dict[str, dict[str, Any]]:
    """The ratios that the targets are about; null where a contender failed or is still to come."""

    def of(name: str, key: str) -> float:
        value = outcomes.get(name, {}).get(key)
        return math.nan if value is None else float(value)

    ours = of(OURS, "seconds")
    chain, single = "TRL, whole chains at a time", "TRL, an example at a time"
    trl = float(np.minimum(of(chain, "seconds"), of(single, "seconds")))
    rate = "tokens_per_second"
    values = {
        "vs_trl": trl / ours,
        "vs_trl_packed": of("TRL, packing", "seconds") / ours,
        "memory_vs_trl": of(OURS, "peak") / of(chain, "peak"),
        "vs_separate": of(SEPARATE, "seconds") / ours,
        "ray_efficiency": of(UNDER_RAY, rate) / of("worker loop without Ray", rate),
        "mfu": of(OURS, "mfu"),
        "mfu_of_stated_peak": of(OURS, "mfu_of_stated_peak"),
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


def packed_like(name: str) -> str:
    """The contender that packs the chains of this one."""
    framework, colon, _ = name.rpartition(": ")
    return f"{framework}{colon}{OURS}"


def losses_apart(outcomes: Outcomes) -> dict[str, float]:
    """How far each contender's losses are from those of packed chains at most, relative.

    Of a worker loop the means by ability are known.
    """
    apart = {}
    for name, outcome in outcomes.items():
        reference = outcomes.get(packed_like(name), {})
        losses = outcome.get("losses") or outcome.get("ability_losses")
        if not losses or not reference.get("losses") or name == packed_like(name):
            continue
        expected = np.array(reference["losses"])
        if "ability_losses" in outcome:
            of = np.array(reference["abilities"])
            expected = np.array([expected[of == ability].mean() for ability in range(len(losses))])
        apart[name] = float(np.abs(np.array(losses) / expected - 1).max())
    return apart


def speed_ups(outcomes: Outcomes) -> dict[str, float]:
    """How many times as fast packed chains are as each contender on the same chains."""
    found = {}
    for name, outcome in outcomes.items():
        packed = outcomes.get(packed_like(name), {}).get("seconds")
        if packed is not None and outcome.get("seconds") is not None:
            found[name] = outcome["seconds"] / packed
    return found


def described(setting: Setting, outcomes: Outcomes) -> dict[str, Any]:
    """All that is known when these have been measured."""
    ours = outcomes[OURS]
    faster = speed_ups(outcomes)
    return {
        "date": date.today().isoformat(),
        "device": ours.get("device"),
        "parameters": ours.get("parameters"),
        "versions": {name: found for name in PACKAGES if (found := installed(name))},
        "outcomes": {
            name: {**outcome, "packed_chains_are_faster_by": faster.get(name)}
            for name, outcome in outcomes.items()
        },
        "losses_apart": losses_apart(outcomes),
        "figures": figures(setting, outcomes),
    }


def installed(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def contender_table(setting: Setting, outcomes: Outcomes) -> list[str]:
    """A line for each contender."""
    lines = [
        "| contender | speed | packed chains / it | tree_token_ratio | peak memory | MFU |",
        "|---|---|---|---|---|---|",
    ]
    faster = speed_ups(outcomes)
    for name, outcome in outcomes.items():
        if "failed" in outcome:
            lines.append(f"| {name} | failed: {outcome['failed']} | | | | |")
            continue
        speed = f"{setting.chains * STEPS / outcome['seconds']:,.2f} examples/s"
        shares = [(outcome["mfu"], ""), (outcome["mfu_of_stated_peak"], " of the stated peak")]
        mfu = ", ".join(f"{share:.1%}{what}" for share, what in shares if share is not None)
        lines.append(
            f"| {name} | {speed} | {_times(faster.get(name))} | {outcome['tree_token_ratio']:.2f} "
            f"| {outcome['peak'] / 2**30:.2f} GiB | {mfu} |"
        )
    return lines


def framework_table(outcomes: Outcomes) -> list[str]:
    """What packing brings by framework, beside separate examples and one linear sequence a chain."""
    faster = speed_ups(outcomes)
    lines = [
        "| framework | tree_token_ratio | packed / separate examples | packed / one linear sequence |",
        "|---|---|---|---|",
    ]
    for shown, prefix in {"IRCoT": "", **{shown: f"{shown}: " for shown in LINEAR}}.items():
        ratio = outcomes.get(f"{prefix}{OURS}", {}).get("tree_token_ratio")
        linear = _times(faster.get(f"{prefix}one linear sequence")) if prefix else NO_LINEAR
        lines.append(
            f"| {shown} | {_times(ratio)} | {_times(faster.get(prefix + SEPARATE))} | {linear} |"
        )
    return lines


def notes(setting: Setting, record: Mapping[str, Any]) -> list[str]:
    """What the figures were measured with, and how far the losses are apart."""
    outcomes = record["outcomes"]
    ours = outcomes[OURS]
    lines = []
    if "failed" not in ours:
        versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
        precision = "bf16" if setting.bf16 else "fp32"
        checkpointing = "on" if setting.gradient_checkpointing else "off"
        lines.append(
            f"{record['date']}, {ours['device']}, {ours['parameters']:,} parameters in {precision}, "
            f"{setting.chains} chains a step, gradient checkpointing {checkpointing}, {versions}"
        )
        lines.append(
            f"packed chains: {ours['flops'] / ours['seconds'] / 1e9:,.0f} GFLOP/s of model work, "
            f"plain {setting.product:,} × {setting.product:,} products "
            f"{ours['mm_rate'] / 1e9:,.0f} GFLOP/s"
        )
    for name, outcome in outcomes.items():
        if "with" in outcome:
            states = "; ".join(f"{what}: {state}" for what, state in outcome["with"].items())
            lines.append(f"{name}: {states}")
    loop = outcomes.get(UNDER_RAY, {})
    if "seconds" in loop:
        lines.append(
            f"{UNDER_RAY}: {loop['seconds']:.2f} s an optimizer step, {loop['tokens_per_second']:,.0f} "
            f"tokens/s as examples have them, {loop['computed_tokens_per_second']:,.0f} computed"
        )
    lines += [
        f"losses of {name} and of {packed_like(name)} differ by at most {most:.1e} "
        f"(allowed: {setting.tolerance:.0e})"
        for name, most in record["losses_apart"].items()
    ]
    return lines


def is_sound(setting: Setting, record: Mapping[str, Any]) -> bool:
    """Whether every contender ran, and on the same losses."""
    ran = all("failed" not in outcome for outcome in record["outcomes"].values())
    return ran and all(most <= setting.tolerance for most in record["losses_apart"].values())


def contenders_of(setting: Setting) -> list[str]:
    """The names of those that are measured; with Triton TRL's head has one way."""
    return [name for name in CONTENDERS if not (setting.gpu and name.endswith("targets only"))]


def _times(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
