"""Reasoners: a model together with the settings it is asked with. Teachers and models under evaluation."""

import hashlib
from dataclasses import dataclass

from steper_ray.chains.settings import BuildConfig, FurtherTeacherConfig, TeacherConfig
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


@dataclass(frozen=True, slots=True)
class Reasoner:
    """A model, and the settings it is asked with."""

    model: str
    reasoning: ReasoningConfig
    engine: EngineConfig
    endpoint: EndpointConfig | None = None
    """The endpoint that runs the model; None runs it in vLLM engines of this run."""
    name: str = ""
    """Name in the ensemble; empty for `build.teacher`."""
    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    self_correction: bool = False
    rationalization: bool = False
    hub: HubConfig = DEFAULTS
    """How to fetch the model, or for an endpoint the tokenizer that counts its tokens."""
    revision: str | None = None
    """Commit, branch or tag of a model on the Hub; None is `main`."""
    task: str = "qa"
    """What counts as right: an entry in TASKS."""

    @property
    def identity(self) -> Record:
        """Record of the model by its content, and of the settings that its chains depend on."""
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
        """Upper bound for the requests of one actor at a time."""
        return self.endpoint.concurrency if self.endpoint else self.engine.max_num_seqs

    def sampling(self, chain_id: str) -> Sampling:
        """Sampling of a chain; the seed follows from its id, so a retry draws the same tokens."""
        if not self.temperature:
            return Sampling()
        seed = int.from_bytes(hashlib.sha256(chain_id.encode()).digest()[:4], "big") >> 1
        return Sampling(self.temperature, self.top_p, seed)


def find_teachers(
    build: BuildConfig,
    *,
    reasoning: ReasoningConfig,
    engine: EngineConfig,
    hub: HubConfig = DEFAULTS,
    task: str = "qa",
) -> list[Reasoner]:
    """The teachers of a build, `build.teacher` first, then the ensemble.

    reasoning: settings of the student, which a teacher's own instruction and demonstrations are laid over
    engine:    engines of every teacher that has none of its own
    task:      name of the task that says which answers are right
    Raises InputError for a teacher that cannot be used.
    """
    teachers = []
    for name, teacher in zip(build.teachers, (build, *build.ensemble), strict=True):
        where = f"build.ensemble: {name}" if name else "build.teacher"
        if teacher.endpoint is None:
            check_model(teacher.teacher, where, teacher.revision)
        elif not teacher.teacher:
            raise InputError(f"{where} is not set; name the model as the endpoint knows it")
        own_engine = teacher.engine if isinstance(teacher, FurtherTeacherConfig) else None
        revision = None if teacher.endpoint else pinned(teacher.teacher, teacher.revision, hub)
        teachers.append(
            Reasoner(
                model=teacher.teacher,
                reasoning=teacher_reasoning(teacher, reasoning),
                engine=own_engine or engine,
                endpoint=teacher.endpoint,
                name=name,
                samples=teacher.samples,
                temperature=teacher.temperature,
                top_p=teacher.top_p,
                self_correction=teacher.self_correction,
                rationalization=teacher.rationalization,
                hub=hub,
                revision=revision,
                task=task,
            )
        )
    return teachers


def model_reasoning(
    model: str, *, build: BuildConfig, reasoning: ReasoningConfig
) -> ReasoningConfig:
    """Reasoning settings of any model.

    A student's are in its folder, a teacher's are `reasoning` with its own instruction and demonstrations,
    any other model's are `reasoning`.

    Raises InputError for settings or demonstrations that cannot be used.
    """
    for teacher in (build, *build.ensemble):
        if model == teacher.teacher:
            return teacher_reasoning(teacher, reasoning)
    carried = carried_settings(model)
    return carried[0] if carried is not None else complete_reasoning(reasoning)


def teacher_reasoning(teacher: TeacherConfig, reasoning: ReasoningConfig) -> ReasoningConfig:
    """Reasoning settings of a teacher: a trained student's from its folder, else the student's with the
    instruction and demonstrations that only the teacher is shown.

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
    """The student's reasoning settings with another instruction and other demonstrations.

    instruction, demonstrations: None keeps the student's; demonstrations are a file or `bundled`
    Raises InputError for demonstrations that cannot be used.
    """
    update = {"instruction": instruction, "demonstrations": demonstrations}
    given = {name: value for name, value in update.items() if value is not None}
    return complete_reasoning(reasoning.model_copy(update=given))
