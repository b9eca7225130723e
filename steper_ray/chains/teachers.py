"""A model together with how it is asked: teachers of a build, models under evaluation."""

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steper_ray.chains.settings import FurtherTeacherConfig
from steper_ray.engines.protocol import Sampling
from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.errors import InputError
from steper_ray.models.folder import check_model, model_identity, pinned
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.models.student_settings import carried_settings
from steper_ray.reasoning.demonstrations import complete_reasoning
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.dependencies import asked_identity
from steper_ray.run.identity import Record

if TYPE_CHECKING:
    from steper_ray.chains.settings import TeacherConfig
    from steper_ray.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class Reasoner:
    """A model, and how it is asked."""

    model: str
    reasoning: ReasoningConfig
    engine: EngineConfig
    endpoint: EndpointConfig | None = None
    """Where it is asked, if not in engines of our own."""
    name: str = ""
    """What an ensemble calls it; empty for `build.teacher`."""
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    self_correction: bool = False
    rationalization: bool = False
    hub: HubConfig = DEFAULTS
    """How the model, or the tokenizer that counts for an endpoint, is reached."""
    revision: str | None = None
    """Of a model on the Hub; None is its `main`."""
    task: str = "qa"
    """What counts as right: an entry in TASKS."""

    @property
    def identity(self) -> Record:
        """The model by its content, and how it is asked."""
        model: Record | str = self.model
        if self.endpoint is None:
            model = model_identity(self.model, self.revision, self.hub)
        return asked_identity(
            model,
            self.reasoning,
            endpoint=self.endpoint,
            temperature=self.temperature,
            top_p=self.top_p,
        )

    @property
    def at_once(self) -> int:
        """Requests that one actor makes at a time."""
        return self.endpoint.concurrency if self.endpoint else self.engine.max_num_seqs

    def sampling(self, chain_id: str) -> Sampling:
        """How the tokens of a chain are drawn: the same ones every time it is asked for."""
        if not self.temperature:
            return Sampling()
        seed = int.from_bytes(hashlib.sha256(chain_id.encode()).digest()[:4], "big") >> 1
        return Sampling(self.temperature, self.top_p, seed)


def find_teachers(config: "RunConfig") -> list[Reasoner]:
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
            Reasoner(
                model=one.teacher,
                reasoning=teacher_reasoning(one, config.reasoning),
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
                task=config.questions.task,
            )
        )
    return found


def model_reasoning(config: "RunConfig", model: str) -> ReasoningConfig:
    """How a model is asked: a student as its folder says, a teacher with what `build` adds to the prompt,
    any other as the run file says.

    Raises InputError for settings or demonstrations that cannot be used.
    """
    for teacher in (config.build, *config.build.ensemble):
        if model == teacher.teacher:
            return teacher_reasoning(teacher, config.reasoning)
    carried = carried_settings(model)
    return carried[0] if carried is not None else complete_reasoning(config.reasoning)


def teacher_reasoning(teacher: "TeacherConfig", reasoning: ReasoningConfig) -> ReasoningConfig:
    """How a teacher is asked: a trained student as its folder says, else like the student, with what the
    teacher alone is shown.

    Raises InputError for settings or demonstrations that cannot be used.
    """
    carried = carried_settings(teacher.teacher)
    if carried is not None:
        return carried[0]
    return teacher_settings(
        reasoning, instruction=teacher.instruction, demonstrations=teacher.demonstrations
    )


def teacher_settings(
    reasoning: ReasoningConfig, *, instruction: str | None, demonstrations: str | None
) -> ReasoningConfig:
    """How the teacher is asked: as the student is, but for what it is shown before the question.

    instruction, demonstrations: None leaves the student's; demonstrations are a file or `bundled`
    Raises InputError for demonstrations that cannot be used.
    """
    update = {"instruction": instruction, "demonstrations": demonstrations}
    given = {name: value for name, value in update.items() if value is not None}
    return complete_reasoning(reasoning.model_copy(update=given))
