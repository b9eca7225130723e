"""Forecast of a build: counts of existing chains, and predictions for the remaining questions.

Each number has its 95 % interval (`steper_ray.planning.estimate`). Pure functions; no model is asked.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from steper_ray.chains.teachers import Reasoner
from steper_ray.chains.usage import EngineUsage
from steper_ray.planning.costs import (
    ALL,
    KINDS,
    ChainCosts,
    Key,
    Sums,
    add_sums,
    example_costs,
    question_sums,
    unbalanced_verdicts,
)
from steper_ray.planning.estimate import Estimate, cap, group_share, predict
from steper_ray.planning.throughput import Throughput, estimate_throughput
from steper_ray.selection.abilities import STEPER, AbilityScheme, ability_scheme
from steper_ray.selection.settings import SelectConfig


@dataclass(frozen=True, slots=True)
class TeacherJob:
    """What one teacher has been asked, and is yet to be asked."""

    reasoner: Reasoner
    unasked: frozenset[tuple[str, int]]
    """(question, sample) without all its chains."""
    sample: tuple[str, ...]
    """Ids of the questions that the teacher was asked for the plan."""
    usage: EngineUsage
    """Usage of the engines on the sample."""
    runs: int
    """Runs that `usage` sums."""


@dataclass(frozen=True, slots=True)
class TeacherPlan:
    """Time, requests and tokens of one teacher; None for a number that nothing was measured of."""

    name: str
    """Name in the ensemble; empty for `build.teacher`."""
    model: str
    remaining: int
    """Samples of questions that the teacher is yet to be asked."""
    pace: Throughput | None
    questions_per_hour: Estimate | None
    """Without the start of the engines."""
    hours_remaining: Estimate | None
    """Hours of a build of the remaining questions, with starting, warming up and draining the engines."""
    hours_all: Estimate | None
    """Hours of a build that would ask every question."""
    device: str
    """Device that the engines occupy: `GPU`, `core`, or nothing (an endpoint)."""
    devices: float
    chains: Estimate | None
    text_remaining: Estimate | None
    """Characters of the chains that are yet to be made."""
    requests_remaining: Estimate | None
    requests_all: Estimate | None
    tokens: Mapping[str, Mapping[str, Estimate | None]]
    """Ability, or `all` → KINDS → tokens of the whole build."""
    cut_off_steps: Mapping[str, Estimate | None]
    """Ability, or `all` → steps of the whole build that the limit of tokens cuts off."""


@dataclass(frozen=True, slots=True)
class DataPlan:
    """The data set that selection will make of all chains; None for an unknown number."""

    kept: Estimate | None
    examples: Mapping[str, Estimate | None]
    """Ability, or `all` → examples."""
    training_tokens: Mapping[str, Estimate | None]
    """Ability, or `all` → tokens of prompts and targets, by the teacher's tokenizer."""
    stepwise_bytes: Estimate | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Forecast of the whole build: existing and remaining chains."""

    questions: int
    finished: int
    """Questions that have all their chains."""
    remaining: int
    """Questions that are yet to be asked."""
    sample: int
    """Questions that the remaining ones are predicted from."""
    asked: int
    """Questions that were asked for this plan by this command."""
    others: int
    """Existing chains of other questions (of an earlier, larger `build.limit`) or other teachers."""
    teachers: tuple[TeacherPlan, ...]
    hours_remaining: Estimate | None
    hours_all: Estimate | None
    """Hours of all teachers, one after another."""
    chains: Estimate | None
    chains_bytes: Estimate | None
    data: DataPlan
    notes: tuple[str, ...]


def forecast_teacher(
    job: TeacherJob, costs: Iterable[ChainCosts], questions: int, scheme: AbilityScheme = STEPER
) -> TeacherPlan:
    """Time, requests and tokens of a teacher for all questions.

    costs:     of every existing chain
    questions: number of all questions
    """
    reasoner, samples = job.reasoner, job.reasoner.samples
    own = [chain for chain in costs if chain.teacher == reasoner.name]
    finished = add_sums(
        chain.counts for chain in own if (chain.question_id, chain.sample) not in job.unasked
    )
    by_question = question_sums(own)
    rows = [by_question.get(question, {}) for question in job.sample]
    remaining = len(job.unasked) / samples

    def total(count: str, ability: str = ALL) -> Estimate | None:
        values = [row.get((count, ability), 0.0) for row in rows]
        return predict(values, remaining, finished.get((count, ability), 0.0))

    def per_question(count: str, number: float) -> Estimate | None:
        return predict([row.get((count, ALL), 0.0) for row in rows], number)

    engine, abilities = reasoner.engine, (*scheme.names, ALL)
    pace = estimate_throughput(
        job.usage,
        [row.get(("seconds", ALL), 0.0) for row in rows or by_question.values()],
        engines=engine.min_replicas,
        runs=job.runs,
        max_per_second=_endpoint_limit(reasoner, rows),
    )
    device = "" if reasoner.endpoint else "GPU" if engine.gpus else "core"
    return TeacherPlan(
        name=reasoner.name,
        model=reasoner.model,
        remaining=len(job.unasked),
        pace=pace,
        questions_per_hour=None if pace is None else pace.every(3600).times(1 / samples),
        hours_remaining=None if pace is None else pace.seconds(len(job.unasked)).times(1 / 3600),
        hours_all=None if pace is None else pace.seconds(questions * samples).times(1 / 3600),
        device=device,
        devices=engine.min_replicas * (engine.gpus or engine.cpus) if device else 0.0,
        chains=total("chains"),
        text_remaining=per_question("text", remaining),
        requests_remaining=per_question("requests", remaining),
        requests_all=per_question("requests", questions),
        tokens={ability: {kind: total(kind, ability) for kind in KINDS} for ability in abilities},
        cut_off_steps={ability: total("cut_off", ability) for ability in abilities},
    )


def _endpoint_limit(reasoner: Reasoner, rows: Sequence[Sums]) -> float | None:
    """Samples of questions a second that the endpoint's rate limit allows; None without a limit."""
    endpoint = reasoner.endpoint
    if endpoint is None or endpoint.requests_per_minute is None or not rows:
        return None
    requests = sum(row.get(("requests", ALL), 0.0) for row in rows)
    per_sample = requests / (len(rows) * reasoner.samples)
    return endpoint.requests_per_minute / 60 * reasoner.engine.min_replicas / max(per_sample, 1e-9)


def forecast_data(
    costs: Sequence[ChainCosts],
    remaining: frozenset[str],
    sample: Sequence[str],
    select: SelectConfig,
    density: float,
) -> DataPlan:
    """The data set that selection will make of all chains.

    costs:     of every existing chain
    remaining: questions that some teacher is yet to be asked
    sample:    questions to predict the remaining ones from
    density:   bytes on disk of a kept chain's examples for its `spelled` (see `measure_density`)
    """
    abilities = (*ability_scheme(select.abilities).names, ALL)
    verdicts = unbalanced_verdicts(costs, select)
    of_hops: dict[int | None, list[ChainCosts]] = defaultdict(list)
    for chain in costs:
        if verdicts[chain.judged.id] is None:
            of_hops[chain.judged.hops].append(chain)
    kept = [chain for chains in of_hops.values() for chain in chains]
    max_kept = max([1.0, *(sums["chains", ALL] for sums in question_sums(kept).values())])

    def total(sums_C: Sequence[Sums], chains: Sequence[ChainCosts], key: Key) -> Estimate | None:
        values: dict[str, float] = defaultdict(float)
        for chain, sums in zip(chains, sums_C, strict=True):
            values[chain.question_id] += sums.get(key, 0.0)
        finished = sum(value for question, value in values.items() if question not in remaining)
        bound = max_kept if key == ("chains", ALL) else None
        return predict([values[q] for q in sample], len(remaining), finished, bound=bound)

    def count(chains: Sequence[ChainCosts]) -> Estimate | None:
        return total([chain.counts for chain in chains], chains, ("chains", ALL))

    number, shares = count(kept), dict.fromkeys(of_hops, 1.0)
    if select.per_hops is not None and number is not None:
        counted = {hops: count(chains) for hops, chains in of_hops.items()}
        groups = {hops: estimate for hops, estimate in counted.items() if estimate is not None}
        number = cap(groups, select.per_hops)
        share = group_share([estimate.value for estimate in groups.values()], select.per_hops)
        shares = {hops: min(1.0, share / max(e.value, 1e-9)) for hops, e in groups.items()}
    data = [example_costs(chain, shares[chain.judged.hops], abilities) for chain in kept]
    size = total(data, kept, ("spelled", ALL))
    return DataPlan(
        kept=number,
        examples={a: total(data, kept, ("examples", a)) for a in abilities},
        training_tokens={a: total(data, kept, ("training", a)) for a in abilities},
        stepwise_bytes=size and size.times(density),
    )
