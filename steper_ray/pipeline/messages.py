"""Closing words of a stage: the lines it shows when it has finished, and the same counts as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from steper_ray.chains.usage import EngineUsage


@dataclass(frozen=True, slots=True)
class StageResult:
    """Result of a finished stage, for people and for programs."""

    lines: list[str]
    """Lines to show."""
    counts: object
    """The numbers in them: a dataclass or a dictionary."""


def write_summary(file: Path, name: str, seconds: float, counts: object) -> None:
    """Write the closing counts of a stage as JSON."""
    from pydantic_core import to_jsonable_python

    from steper_ray.files import write_whole

    values = {"stage": name, "seconds": round(seconds, 3), "counts": to_jsonable_python(counts)}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(values, ensure_ascii=False, indent=2) + "\n")


def usage_lines(ran: "EngineUsage", chains: int) -> list[str]:
    """Speed of the engines, and the share of their work that caches spared."""
    if not ran.asked:
        return [f"all {chains:,} chains were there"]
    actors = f", {ran.starts:,} actors started" if ran.starts > 1 else ""
    seconds = max(ran.engine_seconds, 1e-9)
    speed = (
        f"{ran.asked / seconds:,.1f} questions/s, {ran.generated_tokens / seconds:,.0f} tokens/s"
    )
    prompts = (
        f"{percent_of(ran.cached_tokens, ran.prompt_tokens)} of {ran.prompt_tokens:,} prompt tokens"
    )
    searches = f"{percent_of(ran.remembered, ran.searches)} of {ran.searches:,} searches"
    before = f"{max(0, chains - ran.chains):,} of {chains:,} chains"
    return [
        f"asked {ran.asked:,}: {speed} without the engines' start{actors}",
        f"from caches: {prompts}, {searches}; from before: {before}",
    ]


def percent_of(part: int, whole: int) -> str:
    """A share in whole percent."""
    return f"{100 * part / max(1, whole):.0f} %"


def pushed_lines(address: str | None) -> list[str]:
    """Address of an uploaded repository; no line for None."""
    return [] if address is None else [f"pushed → {address}"]


def row_count_lines(inputs: Path, *settings: str) -> list[str]:
    """Rows read, used and skipped for each of the settings that name the user's files."""
    from steper_ray.data import row_counts

    return row_counts.row_count_lines(inputs, *settings)
