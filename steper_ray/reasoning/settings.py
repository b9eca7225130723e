"""How a question is asked: the settings that a student is trained with and carries in its folder."""

import re
from datetime import date
from typing import Final, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator

from steper_ray.run.section import Address, Section, local_path

TEMPLATE_DATE: Final = date(2024, 7, 26)
"""The default of Llama 3.1's chat template."""


_CUE: Final = re.compile(r"[^\W\d_]+(?:[ '’-][^\W\d_]+){0,3}")


class DemonstrationPassage(Section):
    """A passage that a search brings."""

    title: str
    text: str


class DemonstrationStep(Section):
    """One search and what is written after it."""

    passages: tuple[DemonstrationPassage, ...] = ()
    """What the search brings: the question's at the first step, then that of the step before."""
    text: str
    """What the model writes, as the framework has it."""


class Demonstration(Section):
    """One question answered step by step."""

    question: str
    steps: tuple[DemonstrationStep, ...] = Field(min_length=1)


class ReasoningConfig(Section):
    """How a question is answered; carried in the student's folder."""

    framework: str = "ircot"
    """Prompt layout, next query and stopping rule: `ircot` searches with each sentence it writes,
    `self_ask` with follow-up questions, `react` with the actions it decides on."""
    passages_per_step: PositiveInt = 4
    """Passages a search brings (k in the paper)."""
    max_steps: PositiveInt = 5
    """Steps before the answer is forced (S in the paper)."""
    max_empty_searches: PositiveInt = 2
    """Searches in a row that bring no new passage before there is no further one: the step is still
    written, and if it gives no answer, the next one is forced to."""
    instruction: str | None = None
    """Begins every prompt; null takes the framework's own."""
    demonstrations: Address | tuple[Demonstration, ...] = ()
    """Worked examples after the instruction. In the run file: a YAML file, or `bundled`; the student's
    folder carries what was in it. None by default."""
    cue: str | None = None
    """One to four words before the number that begins each step: `Fact` gives `Fact 1:`. Null takes the
    framework's own, `Fact` in `ircot` (after `Step 1:` chat models plan); the others' layouts have none."""
    chat: Literal["auto", True, False] = "auto"
    """Whether prompts are put into the model's chat template, with the reasoning so far as the
    assistant's unfinished turn; `auto` does where the tokenizer has a template. A student's folder says
    which it was trained with."""
    template_date: date = TEMPLATE_DATE
    """The date in chat templates that name one. Tomorrow's prompts would otherwise be others than those
    that the student was trained on; its folder carries the date."""
    whole_line: bool = False
    """Keep all sentences that are written on the line of a step; otherwise a step of `ircot` is its first
    sentence, or the line up to the answer. The others' steps may have several sentences anyway."""
    max_prompt_tokens: PositiveInt = 4096
    """Longest prompt in tokens; beyond it whole passages are dropped, oldest first."""
    max_passage_tokens: NonNegativeInt | None = None
    """Longest passage in tokens, its title included; of a longer one the first sentences are kept, cut once
    when it is found. Null takes max_prompt_tokens / (2 · passages_per_step), with which a search fills at
    most half a prompt; 0 cuts none."""
    max_step_tokens: PositiveInt = 128
    """Longest text of a step in tokens."""

    @field_validator("cue")
    @classmethod
    def _check_cue(cls, cue: str | None) -> str | None:
        if cue is not None and not _CUE.fullmatch(cue):
            raise ValueError(
                "expected one to four words of letters, without colon, number or line break, such as Fact"
            )
        return cue

    @field_validator("demonstrations", mode="before")
    @classmethod
    def _check_demonstrations(cls, given: object) -> object:
        if isinstance(given, str):
            return local_path(given)
        return () if given is None else given

    @property
    def passage_limit(self) -> int:
        """Longest passage in tokens; 0 where none is cut."""
        if self.max_passage_tokens is not None:
            return self.max_passage_tokens
        return max(1, self.max_prompt_tokens // (2 * self.passages_per_step))
