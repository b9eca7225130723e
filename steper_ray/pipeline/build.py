"""`steper build` for a run: the teachers' chains, then the selection among them."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from steper_ray.chains.build import build_chains
from steper_ray.chains.teachers import Reasoner, find_teachers
from steper_ray.chains.usage import EngineUsage, Progress
from steper_ray.pipeline.select import check_push, select_run
from steper_ray.pipeline.versions import BUILD_PACKAGES, installed_versions
from steper_ray.retrieval.gold import asked_questions
from steper_ray.run.versions import in_use
from steper_ray.schema import Question
from steper_ray.selection.abilities import ability_scheme

if TYPE_CHECKING:
    from steper_ray.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """Result of a build, in which every question is accounted for."""

    questions: int
    """Questions with a chain, those of earlier builds too."""
    chains: int
    kept: int
    rejected: dict[str, int]
    """Rejected chains, by reason code."""
    examples: dict[str, int]
    """Examples by ability."""
    totals: Mapping[str, int]
    """See `steper_ray.selection.statistics.Counts`."""
    usage: EngineUsage
    """The engines' usage in this build."""
    seconds: float
    pushed: str | None = None
    """Address of the repository that the data set was uploaded to."""


def build_run(config: "RunConfig", on_progress: Progress | None = None) -> BuildSummary:
    """Have the teachers answer a run's training questions, and write `chains/` and `stepwise/`.

    Existing chains are not asked for again. Needs a running Ray and an indexed corpus.

    Raises InputError for unusable input, and if existing chains were made with other settings.
    """
    started = time.monotonic()
    check_push(config)
    ability_scheme(config.select.abilities)
    with in_use(config.folder.corpus) as corpus:
        usage = build_chains(
            config.build,
            teachers=run_teachers(config),
            questions=training_questions(config),
            corpus=corpus,
            out=config.folder.chains,
            log=config.folder.log("build"),
            on_progress=on_progress,
        )
    seconds = time.monotonic() - started
    selected = select_run(config, _recorded(usage, seconds) if usage.asked else None)
    counts = selected.counts
    return BuildSummary(
        questions=selected.questions,
        chains=counts.chains,
        kept=counts.kept,
        rejected=counts.rejected,
        examples=selected.examples,
        totals=counts.totals,
        usage=usage,
        seconds=time.monotonic() - started,
        pushed=selected.pushed,
    )


def training_questions(config: "RunConfig") -> list[Question]:
    """The questions that the teachers of a run are asked: at most `build.limit` of `questions.train`."""
    return asked_questions(config, "train")[: config.build.limit]


def run_teachers(config: "RunConfig") -> list[Reasoner]:
    """The teachers of a run; raises InputError for one that cannot be used."""
    return find_teachers(
        config.build,
        reasoning=config.reasoning,
        engine=config.build.engine or config.engine,
        hub=config.hub,
        task=config.questions.task,
    )


def _recorded(usage: EngineUsage, seconds: float) -> dict[str, Any]:
    """The record of the teachers' work in `stats.json`, which the card is made from."""
    return {
        "seconds": round(seconds, 3),
        "tokens_per_second": round(usage.generated_tokens / max(usage.engine_seconds, 1e-9), 3),
        "versions": installed_versions(BUILD_PACKAGES),
        **asdict(usage),
    }
