"""Statistics of chains and their verdicts, for `stats.json`, the card and the printed lines.

`Counts` add up, so that files of chains are counted one by one, on any node. Tokens are counted by the
teacher's tokenizer.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Final

from steper_ray.retrieval.gold import Found, found_by_step, recall_by_step
from steper_ray.run.secrets import public_name
from steper_ray.schema import UNKNOWN_HOPS, Chain
from steper_ray.selection.abilities import AbilityScheme
from steper_ray.selection.rejection import REJECTIONS

TOTALS: Final = (
    "forced",
    "corrected",
    "rationalized",
    "cut_off_steps",
    "dropped_passages",
    "cut_chains",
    "cut_steps",
    "prompt_tokens",
    "cached_tokens",
    "generated_tokens",
)
"""Sums over chains: forced, second attempts, answer shown; steps cut off by the limit of tokens; passages
left out of prompts; chains with a step that was cut to one sentence, and such steps; tokens of steps."""


MAX_BINS: Final = 40
"""Upper bound for the bins of a histogram."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Sums over chains: over all chains they describe the teacher, over kept chains the data set."""

    verdicts: Counter[tuple[int | None, str | None]] = field(default_factory=Counter)
    """(hops, reason; None is kept) → chains."""
    models: Counter[str] = field(default_factory=Counter)
    """Teacher, without the path of a local folder → chains."""
    versions: Counter[str] = field(default_factory=Counter)
    """Corpus version → chains."""
    totals: Counter[str] = field(default_factory=Counter)
    """TOTALS of all chains."""
    scores: Counter[tuple[str, float]] = field(default_factory=Counter)
    """(metric, value) → chains; counted, so that means do not depend on the order of addition."""
    examples: Counter[tuple[int | None, str]] = field(default_factory=Counter)
    """(hops, ability) → examples of kept chains."""
    found: Counter[tuple[int | None, Found]] = field(default_factory=Counter)
    """(hops, gold passages found by each step) → chains whose gold passages are known."""
    steps: Counter[int] = field(default_factory=Counter)
    """Number of steps → kept chains."""
    prompt_tokens: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(ability, tokens of the prompt) → examples of kept chains."""
    generated_tokens: Counter[tuple[str, int]] = field(default_factory=Counter)
    """(ability, tokens written) → examples of kept chains."""

    def add(self, chain: Chain, reason: str | None, scheme: AbilityScheme) -> None:
        """Count one chain with its verdict, and its examples by their abilities."""
        self.verdicts[chain.hops, reason] += 1
        self.models[public_name(chain.model)] += 1
        self.versions[chain.corpus_version] += 1
        cut_steps = sum(step.cut_sentences > 0 for step in chain.steps)
        self.totals.update(
            forced=chain.answer_forced,
            corrected=chain.attempt == 2,
            rationalized=chain.rationalized,
            cut_off_steps=sum(step.is_cut_off for step in chain.steps),
            dropped_passages=sum(step.dropped_passages for step in chain.steps),
            cut_chains=cut_steps > 0,
            cut_steps=cut_steps,
            prompt_tokens=sum(step.prompt_tokens for step in chain.steps),
            cached_tokens=sum(step.cached_tokens or 0 for step in chain.steps),
            generated_tokens=sum(step.generated_tokens for step in chain.steps),
        )
        self.scores.update([("em", chain.em), ("f1", chain.f1), ("acc", chain.acc)])
        if chain.supporting_ids and chain.error is None:
            searches = (step.passage_ids for step in chain.steps)
            self.found[chain.hops, found_by_step(searches, chain.supporting_ids)] += 1
        if reason is not None:
            return
        self.steps[len(chain.steps)] += 1
        for number, step in enumerate(chain.steps, 1):
            ability = scheme.of(number, len(chain.steps))
            self.examples[chain.hops, ability] += 1
            self.prompt_tokens[ability, step.prompt_tokens] += 1
            self.generated_tokens[ability, step.generated_tokens] += 1

    @property
    def chains(self) -> int:
        """Number of chains."""
        return self.verdicts.total()

    @property
    def kept(self) -> int:
        """Number of kept chains."""
        return sum(count for (_, reason), count in self.verdicts.items() if reason is None)

    @property
    def rejected(self) -> dict[str, int]:
        """Reason code → chains, in the order of REJECTIONS."""
        return _by_reason(self.verdicts.items())

    def mean(self, metric: str) -> float:
        """Mean of `em`, `f1` or `acc` over all chains; 0 without chains."""
        values = [value * count for (of, value), count in self.scores.items() if of == metric]
        return round(math.fsum(values) / self.chains, 6) if self.chains else 0.0

    def by_ability(self, names: Sequence[str]) -> dict[str, int]:
        """Ability → examples of kept chains, every ability of `names` in their order."""
        return {
            ability: sum(count for (_, of), count in self.examples.items() if of == ability)
            for ability in names
        }


def merge(parts: Iterable[Counts]) -> Counts:
    """Sum of the counts of all parts."""
    whole = Counts()
    for part in parts:
        for entry in fields(Counts):
            getattr(whole, entry.name).update(getattr(part, entry.name))
    return whole


def describe(counts: Counts, scheme: AbilityScheme) -> dict[str, Any]:
    """The counts as plain JSON values, smallest keys first, with the ability scheme."""
    hops = _hop_counts(counts)
    return {
        "chains": {"all": counts.chains, "kept": counts.kept, "rejected": counts.rejected},
        "hops": {
            name: _describe_hops(counts, number, scheme.names) for name, number in hops.items()
        },
        "gold_passages": {
            **_describe_found(counts, list(hops.values())),
            "hops": {name: _describe_found(counts, [number]) for name, number in hops.items()},
        },
        "steps": {str(steps): counts.steps[steps] for steps in sorted(counts.steps)},
        "abilities": scheme.record(),
        "examples": counts.by_ability(scheme.names),
        "tokens": {
            "prompt": histogram(counts.prompt_tokens, scheme.names),
            "generated": histogram(counts.generated_tokens, scheme.names),
        },
        "teacher": {
            "models": dict(sorted(counts.models.items())),
            **{metric: counts.mean(metric) for metric in ("em", "f1", "acc")},
            **{total: counts.totals[total] for total in TOTALS},
        },
        "corpus_versions": dict(sorted(counts.versions.items())),
    }


def histogram(tokens: Mapping[tuple[str, int], int], names: Sequence[str]) -> dict[str, Any]:
    """Bins of one width for all abilities; of each ability its counts in them, quantiles and mean.

    tokens: (ability, tokens) → examples
    names:  the abilities in their order
    Returns `start` and `width` in tokens (bin b begins at start + b·width), and `abilities`: for each that
    has examples their number, min, median, mean, p95 and max, and `counts`, one for each bin.
    """
    if not tokens:
        return {"start": 0, "width": 1, "abilities": {}}
    lowest, highest = (end(value for _, value in tokens) for end in (min, max))
    width = _round_width(highest - lowest + 1)
    start = lowest // width * width
    bins = (highest - start) // width + 1
    abilities = {}
    for ability in names:
        values = Counter({value: count for (of, value), count in tokens.items() if of == ability})
        if not values:
            continue
        counts = [0] * bins
        for value, count in values.items():
            counts[(value - start) // width] += count
        number = values.total()
        abilities[ability] = {
            "examples": number,
            "min": min(values),
            "median": _quantile(values, 0.5),
            "mean": round(sum(value * count for value, count in values.items()) / number, 2),
            "p95": _quantile(values, 0.95),
            "max": max(values),
            "counts": counts,
        }
    return {"start": start, "width": width, "abilities": abilities}


def _round_width(span: int) -> int:
    """Smallest width of 1, 2 or 5 times a power of ten that covers a span with MAX_BINS - 1 bins."""
    decade = 1
    while True:
        for width in (decade, 2 * decade, 5 * decade):
            if math.ceil(span / width) < MAX_BINS:
                return width
        decade *= 10


def _quantile(values: Counter[int], share: float) -> int:
    """Smallest value that at least this share of all values does not exceed."""
    target, passed = share * values.total(), 0
    for value in sorted(values):
        passed += values[value]
        if passed >= target:
            return value
    raise AssertionError("unreachable: all values together reach every share")


def _hop_counts(counts: Counts) -> dict[str, int | None]:
    """Name → hop count, for every hop count of the chains; the unknown one last."""
    present = {hops for hops, _ in counts.verdicts}
    named: dict[str, int | None] = {
        str(hops): hops for hops in sorted(hops for hops in present if hops is not None)
    }
    return named | ({UNKNOWN_HOPS: None} if None in present else {})


def _describe_hops(counts: Counts, hops: int | None, names: Sequence[str]) -> dict[str, Any]:
    of_these = [(key, count) for key, count in counts.verdicts.items() if key[0] == hops]
    return {
        "all": sum(count for _, count in of_these),
        "kept": sum(count for (_, reason), count in of_these if reason is None),
        "rejected": _by_reason(of_these),
        "examples": {ability: counts.examples[hops, ability] for ability in names},
    }


def _describe_found(counts: Counts, hops: Collection[int | None]) -> dict[str, Any]:
    """Chains whose gold passages are known, and the share of these that was found up to each step."""
    found: Counter[Found] = Counter()
    for (of, sizes), number in counts.found.items():
        if of in hops:
            found[sizes] += number
    return {"chains": found.total(), "recall_by_step": recall_by_step(found)}


def _by_reason(verdicts: Iterable[tuple[tuple[int | None, str | None], int]]) -> dict[str, int]:
    sums: Counter[str | None] = Counter()
    for (_, reason), count in verdicts:
        sums[reason] += count
    return {reason: sums[reason] for reason in REJECTIONS if sums[reason]}
