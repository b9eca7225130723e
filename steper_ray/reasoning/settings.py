"""How a question is asked: the settings that a student is trained with and carries in its folder."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import PositiveInt, model_validator

from steper_ray.reasoning import ircot, react, self_ask
from steper_ray.reasoning.demonstrations import Demonstration, canonical, read_demonstrations
from steper_ray.reasoning.framework import Framework
from steper_ray.section import Section

FRAMEWORKS: Final[dict[str, Framework]] = {"ircot": ircot, "self_ask": self_ask, "react": react}


class ReasoningConfig(Section):
    """How a question is answered; carried in the student's folder."""

    framework: Literal["ircot", "self_ask", "react"] = "ircot"
    """Prompt layout, next query and stopping rule: `ircot` searches with each sentence it writes,
    `self_ask` with follow-up questions, `react` with the actions it decides on."""
    passages_per_step: PositiveInt = 4
    """Passages a search brings (k in the paper)."""
    max_steps: PositiveInt = 5
    """Steps before the answer is forced (S in the paper)."""
    max_empty_searches: PositiveInt = 2
    """Searches in a row that bring no new passage before there is no further one: the step is still
    written, and if it gives no answer, the next one is forced to."""
    instruction: str = ircot.INSTRUCTION
    """Begins every prompt; unless set, the framework's own."""
    demonstrations: tuple[Demonstration, ...] = ()
    """Worked examples after the instruction. In the run file: a YAML file, or `bundled`; the student's
    folder carries what was in it. None by default."""
    chat: Literal["auto", True, False] = "auto"
    """Whether prompts are put into the model's chat template, with the reasoning so far as the
    assistant's unfinished turn; `auto` does where the tokenizer has a template. A student's folder says
    which it was trained with."""
    max_prompt_tokens: PositiveInt = 4096
    """Longest prompt in tokens; beyond it whole passages are dropped, oldest first."""
    max_step_tokens: PositiveInt = 128
    """Longest text of a step in tokens."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, values: Any) -> Any:
        """The framework's own instruction where none is given; demonstrations read from their file."""
        if not isinstance(values, Mapping):
            return values
        values = dict(values)
        name = values.get("framework", "ircot")
        framework = FRAMEWORKS.get(name) if isinstance(name, str) else None
        if framework is None:
            return values
        values.setdefault("instruction", framework.INSTRUCTION)
        given = values.get("demonstrations")
        if isinstance(given, str):
            values["demonstrations"] = read_demonstrations(given, name, framework)
        elif isinstance(given, list | tuple):
            values["demonstrations"] = canonical(given, framework, "demonstrations")
        elif given is None:
            values["demonstrations"] = ()
        return values

    @property
    def code(self) -> Framework:
        """What `framework` names."""
        return FRAMEWORKS[self.framework]


def teacher_settings(
    reasoning: ReasoningConfig, *, instruction: str | None, demonstrations: str | None
) -> ReasoningConfig:
    """How the teacher is asked: as the student is, but for what it is shown before the question.

    instruction, demonstrations: None leaves the student's; demonstrations are a file or `bundled`
    Raises InputError for demonstrations that cannot be used.
    """
    update: dict[str, Any] = {}
    if instruction is not None:
        update["instruction"] = instruction
    if demonstrations is not None:
        update["demonstrations"] = (
            read_demonstrations(demonstrations, reasoning.framework, reasoning.code)
            if demonstrations
            else ()
        )
    return reasoning.model_copy(update=update)
