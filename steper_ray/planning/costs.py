"""What each existing chain cost and brings: tokens, requests, seconds, examples, text, size on disk."""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steper_ray.chains.rows import read_file
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Chain
from steper_ray.selection.abilities import AbilityScheme, ability_scheme
from steper_ray.selection.choice import Judgement, choose, judge
from steper_ray.selection.settings import SelectConfig
from steper_ray.selection.shards import plan_shards, write_shard
from steper_ray.selection.verdict_files import rewrite_file

KINDS: Final = ("prompt", "cached", "generated")
"""Kinds of tokens; the cached ones are among those of the prompt."""


ALL: Final = "all"
"""All abilities together."""


Key = tuple[str, str]
"""(what is counted, of which ability)."""


Sums = Mapping[Key, float]


@dataclass(frozen=True, slots=True)
class ChainCosts:
    """Judgement of a chain, and sums over its steps."""

    judged: Judgement
    teacher: str
    sample: int
    counts: Sums
    """Tokens by KINDS, `examples` and steps `cut_off`, by ability; `chains`, `requests`, `seconds` and
    `text` in characters, for how sizes vary."""

    @property
    def question_id(self) -> str:
        """Id of the question that the chain answers."""
        return self.judged.question_id


def file_costs(
    file: Path,
    *,
    select: SelectConfig,
    reasoning: ReasoningConfig,
    teachers: Sequence[str],
) -> list[ChainCosts]:
    """Costs of each chain of a file."""
    framework, scheme = framework_named(reasoning.framework), ability_scheme(select.abilities)
    return [
        chain_costs(chain, judge(chain, select, framework, teachers), scheme)
        for chain in read_file(file)
    ]


def chain_costs(chain: Chain, judged: Judgement, scheme: AbilityScheme) -> ChainCosts:
    """Costs of a chain."""
    counts: dict[Key, float] = defaultdict(float)
    for number, step in enumerate(chain.steps, 1):
        for ability in (scheme.of(number, len(chain.steps)), ALL):
            counts["prompt", ability] += step.prompt_tokens
            counts["cached", ability] += step.cached_tokens or 0
            counts["generated", ability] += step.generated_tokens
            counts["examples", ability] += 1
            counts["cut_off", ability] += step.is_cut_off
        counts["seconds", ALL] += step.search_seconds + step.generate_seconds
    counts["chains", ALL] = 1
    counts["requests", ALL] = len(chain.steps) + (chain.attempt == 2)
    texts = [
        chain.question,
        *(step.query + (step.thought or "") + step.rationale for step in chain.steps),
    ]
    texts += [passage.title + passage.text for passage in chain.passages]
    counts["text", ALL] = sum(map(len, texts))
    return ChainCosts(judged, chain.teacher, chain.sample, dict(counts))


def example_costs(chain: ChainCosts, share: float, abilities: Iterable[str]) -> Sums:
    """Sums over the examples of a kept chain, if this share of such chains is kept.

    `spelled` is the text that the examples spell out: each repeats the chain's text up to its step.
    """
    sums: dict[Key, float] = {
        ("spelled", ALL): share * chain.counts["text", ALL] * chain.counts["examples", ALL]
    }
    for ability in abilities:
        prompt, written, examples = (
            chain.counts.get((kind, ability), 0.0) for kind in ("prompt", "generated", "examples")
        )
        sums["training", ability] = share * (prompt + written)
        sums["examples", ability] = share * examples
    return sums


def measure_density(
    parts: Mapping[Path, Sequence[ChainCosts]], select: SelectConfig, reasoning: ReasoningConfig
) -> tuple[float, float]:
    """Bytes on disk for each character of a chain's `text`, and for each of a kept chain's `spelled`.

    parts: files of chains with their costs; they are written as selection does it, into a temporary folder
    """
    scheme = ability_scheme(select.abilities)
    costs = [chain for part in parts.values() for chain in part]
    verdicts = unbalanced_verdicts(costs, select)
    judged = {file: [chain.judged for chain in part] for file, part in parts.items()}
    with tempfile.TemporaryDirectory(prefix="steper-plan-") as folder:
        chains, data = Path(folder) / "chains", Path(folder) / "data"
        chains.mkdir()
        data.mkdir()
        for file in parts:
            rewrite_file((file, chains, verdicts), scheme=scheme)
        for shard in plan_shards(judged, verdicts):
            write_shard(shard, folder=data, reasoning=reasoning, scheme=scheme)
        chains_size, data_size = (
            sum(file.stat().st_size for file in written.iterdir()) for written in (chains, data)
        )
    text = sum(chain.counts["text", ALL] for chain in costs)
    kept = [chain for chain in costs if verdicts[chain.judged.id] is None]
    spelled = sum(example_costs(chain, 1.0, ())["spelled", ALL] for chain in kept)
    return chains_size / text if text else 0.0, data_size / spelled if spelled else 0.0


def unbalanced_verdicts(costs: Iterable[ChainCosts], select: SelectConfig) -> dict[str, str | None]:
    """Chain id → verdict without `select.per_hops`, whose share depends on the finished build."""
    unbalanced = select.model_copy(update={"per_hops": None})
    return choose([chain.judged for chain in costs], unbalanced)


def question_sums(costs: Iterable[ChainCosts]) -> dict[str, Sums]:
    """Question → sums over its chains."""
    chains: dict[str, list[Sums]] = defaultdict(list)
    for chain in costs:
        chains[chain.question_id].append(chain.counts)
    return {question: add_sums(sums) for question, sums in chains.items()}


def add_sums(parts: Iterable[Sums]) -> Sums:
    """Sums of all parts together."""
    whole: dict[Key, float] = defaultdict(float)
    for part in parts:
        for key, value in part.items():
            whole[key] += value
    return whole
