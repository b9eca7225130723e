"""The `build` section: the teacher, an ensemble of teachers, and what they work on."""

import re
from pathlib import Path
from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.run.section import LocalPath, Section


class TeacherConfig(Section):
    """A teacher, and how it is asked."""

    teacher: LocalPath = ""
    """Hugging Face folder or Hub name of the teacher."""
    revision: str | None = None
    """Commit, branch or tag of a teacher on the Hub; null takes what was fetched before, else `main`."""
    instruction: str | None = None
    """What the teacher's prompts begin with; null begins them like the student's."""
    demonstrations: LocalPath | None = None
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
    """Its vLLM engines, where they differ from `build.engine`, with the keys that do."""

    @property
    def called(self) -> str:
        """Its name in the ensemble."""
        return self.name or re.sub(r"[^\w.-]", "-", Path(self.teacher).name)


class BuildConfig(TeacherConfig):
    """The teacher and what it works on."""

    engine: EngineConfig | None = None
    """The teachers' vLLM engines, where they differ from the `engine` section, with the keys that do."""
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
