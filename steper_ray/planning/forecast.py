"""From the chains that are there to what the whole job will take and bring: the numbers of a plan.

Nobody is asked. What is there is counted, what is left predicted from the questions of the sample; each
number with its 95 % interval (`steper_ray.planning.estimate`). Only the sample's size on disk is measured
by writing it, as a build would, into a temporary folder.
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from steper_ray.chains.rows import read_file
from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage
from steper_ray.planning.estimate import Estimate, cap, predict
from steper_ray.planning.throughput import Throughput, estimate_throughput
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import ABILITIES, Chain
from steper_ray.selection.abilities import ability_of
from steper_ray.selection.choice import Judgement, choose, judge
from steper_ray.selection.settings import SelectConfig
from steper_ray.selection.shards import plan_shards, write_shard
from steper_ray.selection.verdict_files import rewrite_file
from steper_ray.tasks import task_named

KINDS: Final = ("prompt", "cached", "generated")


ALL: Final = "all"
"""All abilities together."""


Key = tuple[str, str]
"""(what is counted, of which ability)."""


Sums = Mapping[Key, float]


@dataclass(frozen=True, slots=True)
class ChainCosts:
    """A chain, as far as a plan needs it."""

    judged: Judgement
    teacher: str
    sample: int
    counts: Sums
    """Tokens by KINDS and `examples`, by ability; `chains`, `requests`, `seconds` and `text` (in
    characters, for how sizes vary)."""

    @property
    def question_id(self) -> str:
        """The question that it answers."""
        return self.judged.question_id


@dataclass(frozen=True, slots=True)
class TeacherJob:
    """What a forecast knows of one teacher."""

    reasoner: Reasoner
    left: frozenset[tuple[str, int]]
    """(question, sample) that it is still to be asked."""
    sample: tuple[str, ...]
    """Questions that it was asked for the plan."""
    ran: EngineUsage
    runs: int


@dataclass(frozen=True, slots=True)
class TeacherPlan:
    """What one teacher will take; a number that nothing is known of is None."""

    name: str
    """What the ensemble calls it; empty for `build.teacher`."""
    model: str
    left: int
    """Questions and samples that it is still to be asked."""
    pace: Throughput | None
    questions_per_hour: Estimate | None
    """Without the start of the engines."""
    hours_left: Estimate | None
    """Of a build that asks what is left, with the engines' start, warming up and running empty."""
    hours_all: Estimate | None
    """Of a build that would ask everything."""
    device: str
    """What it holds while it works: `GPU`, `core`, or nothing (an endpoint)."""
    devices: float
    chains: Estimate | None
    text_left: Estimate | None
    """Characters of the chains still to come."""
    requests_left: Estimate | None
    requests_all: Estimate | None
    tokens: Mapping[str, Mapping[str, Estimate | None]]
    """Ability, or `all` → `prompt`, of which `cached`, and `generated`; of the whole job."""


@dataclass(frozen=True, slots=True)
class DataPlan:
    """What selection will make of all chains; a number that nothing is known of is None."""

    kept: Estimate | None
    examples: Mapping[str, Estimate | None]
    """Ability, or `all` → examples."""
    training_tokens: Mapping[str, Estimate | None]
    """Ability, or `all` → tokens of prompts and targets, by the teacher's tokenizer."""
    stepwise_bytes: Estimate | None


def file_costs(
    file: Path,
    *,
    select: SelectConfig,
    reasoning: ReasoningConfig,
    teachers: Sequence[str],
    task: str,
) -> list[ChainCosts]:
    """Each chain of a file."""
    framework, scored_by = framework_named(reasoning.framework), task_named(task)
    return [
        chain_costs(chain, judge(chain, select, framework, teachers, scored_by))
        for chain in read_file(file)
    ]


def chain_costs(chain: Chain, judged: Judgement) -> ChainCosts:
    """A chain, as far as a plan needs it."""
    counts: dict[Key, float] = defaultdict(float)
    for number, step in enumerate(chain.steps, 1):
        for ability in (ability_of(number, len(chain.steps)), ALL):
            counts["prompt", ability] += step.prompt_tokens
            counts["cached", ability] += step.cached_tokens or 0
            counts["generated", ability] += step.generated_tokens
            counts["examples", ability] += 1
        counts["seconds", ALL] += step.search_seconds + step.generate_seconds
    counts["chains", ALL] = 1
    counts["requests", ALL] = len(chain.steps) + (chain.attempt == 2)
    words = [chain.question, *(step.query + step.rationale for step in chain.steps)]
    words += [passage.title + passage.text for passage in chain.passages]
    counts["text", ALL] = sum(map(len, words))
    return ChainCosts(judged, chain.teacher, chain.sample, dict(counts))


def forecast_teacher(job: TeacherJob, looked: Iterable[ChainCosts], questions: int) -> TeacherPlan:
    """What a teacher will take for all questions.

    looked: every chain that is there
    """
    reasoner, samples = job.reasoner, job.reasoner.samples
    own = [one for one in looked if one.teacher == reasoner.name]
    there = _sum(one.counts for one in own if (one.question_id, one.sample) not in job.left)
    per_question = _by_question(own)
    rows = [per_question.get(question, {}) for question in job.sample]
    left = len(job.left) / samples

    def total(what: str, ability: str = ALL) -> Estimate | None:
        values = [row.get((what, ability), 0.0) for row in rows]
        return predict(values, left, there.get((what, ability), 0.0))

    def each(what: str, number: float) -> Estimate | None:
        return predict([row.get((what, ALL), 0.0) for row in rows], number)

    endpoint, engine = reasoner.endpoint, reasoner.engine
    most = None
    if endpoint is not None and endpoint.requests_per_minute is not None and rows:
        requests = sum(row.get(("requests", ALL), 0.0) for row in rows) / (len(rows) * samples)
        most = endpoint.requests_per_minute / 60 * engine.replicas / max(requests, 1e-9)
    seen = rows or list(per_question.values())
    pace = estimate_throughput(
        job.ran,
        [row.get(("seconds", ALL), 0.0) for row in seen],
        engines=engine.replicas,
        runs=job.runs,
        most_per_second=most,
    )
    device = "" if endpoint else "GPU" if engine.gpus else "core"
    return TeacherPlan(
        name=reasoner.name,
        model=reasoner.model,
        left=len(job.left),
        pace=pace,
        questions_per_hour=None if pace is None else pace.every(3600).times(1 / samples),
        hours_left=None if pace is None else pace.seconds(len(job.left)).times(1 / 3600),
        hours_all=None if pace is None else pace.seconds(questions * samples).times(1 / 3600),
        device=device,
        devices=engine.replicas * (engine.gpus or engine.cpus) if device else 0.0,
        chains=total("chains"),
        text_left=each("text", left),
        requests_left=each("requests", left),
        requests_all=each("requests", questions),
        tokens={
            ability: {kind: total(kind, ability) for kind in KINDS} for ability in (*ABILITIES, ALL)
        },
    )


def forecast_data(
    looked: Sequence[ChainCosts],
    left: frozenset[str],
    sample: Sequence[str],
    select: SelectConfig,
    density: float,
) -> DataPlan:
    """What selection will make of all chains.

    looked:  every chain that is there
    left:    questions that some teacher is still to be asked
    sample:  questions to predict those from
    density: bytes on disk of a kept chain's examples for its `spelled` (see `measure_density`)
    """
    verdicts = choose([one.judged for one in looked], select.model_copy(update={"per_hops": None}))
    of_hops: dict[int | None, list[ChainCosts]] = defaultdict(list)
    for one in looked:
        if verdicts[one.judged.id] is None:
            of_hops[one.judged.hops].append(one)
    kept = [one for ones in of_hops.values() for one in ones]
    most = max([1.0, *(sums["chains", ALL] for sums in _by_question(kept).values())])

    def total(chains: Sequence[Sums], whose: Sequence[ChainCosts], key: Key) -> Estimate | None:
        values: dict[str, float] = defaultdict(float)
        for one, sums in zip(whose, chains, strict=True):
            values[one.question_id] += sums.get(key, 0.0)
        there = sum(value for question, value in values.items() if question not in left)
        bound = most if key == ("chains", ALL) else None
        return predict([values[q] for q in sample], len(left), there, most=bound)

    def count(ones: Sequence[ChainCosts]) -> Estimate | None:
        return total([one.counts for one in ones], ones, ("chains", ALL))

    number, shares = count(kept), dict.fromkeys(of_hops, 1.0)
    if select.per_hops is not None and number is not None:
        counted = {hops: count(ones) for hops, ones in of_hops.items()}
        groups = {hops: known for hops, known in counted.items() if known is not None}
        number = cap(groups, select.per_hops)
        rarest = min((one.value for one in groups.values()), default=0.0)
        share = rarest if isinstance(select.per_hops, str) else select.per_hops
        shares = {hops: min(1.0, share / max(one.value, 1e-9)) for hops, one in groups.items()}
    data = [_as_data(one, shares[one.judged.hops]) for one in kept]
    size = total(data, kept, ("spelled", ALL))
    return DataPlan(
        kept=number,
        examples={
            ability: total(data, kept, ("examples", ability)) for ability in (*ABILITIES, ALL)
        },
        training_tokens={
            ability: total(data, kept, ("training", ability)) for ability in (*ABILITIES, ALL)
        },
        stepwise_bytes=size and size.times(density),
    )


def measure_density(
    parts: Mapping[Path, Sequence[ChainCosts]], select: SelectConfig, reasoning: ReasoningConfig
) -> tuple[float, float]:
    """Bytes on disk for each character of a chain's `text`, and for each of a kept chain's `spelled`.

    parts: files of chains, with what is in them; they are written again as selection does it
    """
    looked = [one for part in parts.values() for one in part]
    verdicts = choose([one.judged for one in looked], select.model_copy(update={"per_hops": None}))
    judged = {file: [one.judged for one in part] for file, part in parts.items()}
    with tempfile.TemporaryDirectory(prefix="steper-plan-") as folder:
        chains, data = Path(folder) / "chains", Path(folder) / "data"
        chains.mkdir()
        data.mkdir()
        for file in parts:
            rewrite_file((file, chains, verdicts))
        for shard in plan_shards(judged, verdicts):
            write_shard(shard, folder=data, reasoning=reasoning)
        sizes = [sum(file.stat().st_size for file in place.iterdir()) for place in (chains, data)]
    text = sum(one.counts["text", ALL] for one in looked)
    kept = [_as_data(one, 1.0) for one in looked if verdicts[one.judged.id] is None]
    spelled = sum(sums["spelled", ALL] for sums in kept)
    return sizes[0] / text if text else 0.0, sizes[1] / spelled if spelled else 0.0


def _as_data(one: ChainCosts, share: float) -> Sums:
    """What a kept chain's examples come to, if this share of such chains is kept.

    `spelled` is the text that its examples spell out: each has that of the chain up to its step.
    """
    sums: dict[Key, float] = {
        ("spelled", ALL): share * one.counts["text", ALL] * one.counts["examples", ALL]
    }
    for ability in (*ABILITIES, ALL):
        prompt, written, examples = (
            one.counts.get((what, ability), 0.0) for what in ("prompt", "generated", "examples")
        )
        sums["training", ability] = share * (prompt + written)
        sums["examples", ability] = share * examples
    return sums


def _by_question(looked: Iterable[ChainCosts]) -> dict[str, Sums]:
    """Question → the sums over its chains."""
    chains: dict[str, list[Sums]] = defaultdict(list)
    for one in looked:
        chains[one.question_id].append(one.counts)
    return {question: _sum(sums) for question, sums in chains.items()}


def _sum(parts: Iterable[Sums]) -> Sums:
    whole: dict[Key, float] = defaultdict(float)
    for part in parts:
        for key, value in part.items():
            whole[key] += value
    return whole


@dataclass(frozen=True, slots=True)
class Plan:
    """What the whole job will take and bring: chains that are there and those that are left."""

    questions: int
    there: int
    """Questions that need not be asked any more."""
    left: int
    sample: int
    """Questions that those are predicted from."""
    asked: int
    """Questions that were asked for this plan, just now."""
    others: int
    """Chains that are there of other questions (of a larger `build.limit` before) or other teachers."""
    teachers: tuple[TeacherPlan, ...]
    hours_left: Estimate | None
    hours_all: Estimate | None
    """Of all teachers, one after the other."""
    chains: Estimate | None
    chains_bytes: Estimate | None
    data: DataPlan
    notes: tuple[str, ...]
