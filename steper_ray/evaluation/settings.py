"""The `eval` and `compare` sections."""

from pathlib import Path
from typing import Any, Final

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from steper_ray.engines.settings import EngineConfig
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.run.section import LocalPath, Section, did_you_mean

STUDENT: Final = "student"
"""Name of the run's own student among models."""


TEACHER: Final = "teacher"
"""Name of the run's teacher among models."""


STEPS_FOLDER: Final = "steps"
"""Folder of the models' single steps, beside the folders of their answers."""


class EvalConfig(Section):
    """Which models are compared, on how many questions."""

    models: dict[str, LocalPath] = Field(default_factory=dict)
    """Name → model folder, or `owner/name@revision` on the Hub; empty evaluates the run's student. The
    names student, base and teacher tell the report which is which."""
    limit: PositiveInt | None = None
    """Use only the first so many held-out questions; null uses all."""
    abilities: bool = False
    """Also score each ability by itself: every model but the one called teacher writes each step of the
    teacher's right chains, given what the teacher had found and said before it."""
    reasoning: dict[str, ReasoningConfig] = Field(default_factory=dict)
    """Name of a model → the keys of `reasoning` by which it is asked, where they differ: other ways to
    answer, as baselines (`{plain: {max_steps: 1}}` searches once). What it carries does not count then."""
    engine: EngineConfig | None = None
    """The engines of the models under evaluation, where they differ from the `engine` section, with the
    keys that do."""
    engines: dict[str, EngineConfig] = Field(default_factory=dict)
    """Name of a model → its engines, where they differ from `eval.engine`, with the keys that do."""

    def engine_of(self, model: str) -> EngineConfig | None:
        """The engines of a model by its name, where they are not those of the `engine` section."""
        return self.engines.get(model, self.engine)

    @model_validator(mode="after")
    def _abilities_have_a_teacher(self) -> "EvalConfig":
        if self.abilities and TEACHER not in self.models:
            raise ValueError(
                "abilities: the steps are those of a teacher's right chains; name it in models, as teacher"
            )
        return self

    @model_validator(mode="after")
    def _names_are_folders(self) -> "EvalConfig":
        for name in self.models:
            if not name or Path(name).name != name or name.startswith(".") or name == STEPS_FOLDER:
                raise ValueError(f"models: {name!r} cannot be a model's name; it names a folder")
        return self

    @model_validator(mode="after")
    def _keys_are_of_models(self) -> "EvalConfig":
        names = self.models or {STUDENT: ""}
        for key, given in (("engines", self.engines), ("reasoning", self.reasoning)):
            for name in given:
                if name not in names:
                    hint = did_you_mean(name, names) or f"models are {', '.join(names)}"
                    raise ValueError(f"{key}: no model is called {name}; {hint}")
        return self


VARIANTS: Final[dict[str, dict[str, Any]]] = {
    "vanilla-kd": {"objective": "vanilla-kd"},
    "uniform": {"objective": "uniform"},
    "fixed 1.5,1,0.5": {"objective": "fixed", "fixed_weights": [1.5, 1.0, 0.5]},
    "fixed 0.5,1,1.5": {"objective": "fixed", "fixed_weights": [0.5, 1.0, 1.5]},
    "init only": {"objective": "difficulty", "abilities": ["init"]},
    "init+exp": {"objective": "difficulty", "abilities": ["init", "exp"]},
    "difficulty": {"objective": "difficulty"},
}
"""The paper's comparison: name → the keys of the train section in which it differs."""


REPEATED: Final = ("vanilla-kd", "uniform", "difficulty")
"""The paper's variants that are trained with every seed."""


class CompareConfig(Section):
    """Which ways of learning are compared."""

    variants: dict[str, dict[str, Any]] = Field(default_factory=lambda: dict(VARIANTS))
    """Name → the keys of the train section in which it differs from the run file."""
    baseline: str = "vanilla-kd"
    """The variant that all others are tested against."""
    learning_rates: tuple[PositiveFloat, ...] = ()
    """Learning rates that every variant tries; empty takes `train.lr` for all."""
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Seeds of the variants in `repeated`; all others are trained with the first."""
    repeated: tuple[str, ...] | None = None
    """Variants that are trained with every seed; null takes `vanilla-kd`, `uniform` and `difficulty`, where
    they are variants."""

    @property
    def repeated_variants(self) -> tuple[str, ...]:
        """The variants that are trained with every seed."""
        if self.repeated is not None:
            return self.repeated
        return tuple(name for name in REPEATED if name in self.variants)
