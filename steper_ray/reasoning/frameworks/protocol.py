"""What a framework is: how prompts are laid out, how the written text is read, when a step ends.

Every framework runs in the same loop: step s searches and gets P_s (the first search is the question
itself), then the model writes r_s. They differ in what r_s looks like and where the passages stand.

**Prompts only grow.** The prompt of step s+1 keeps all that the prompt of step s has, in the same order,
and adds to it. In Self-Ask and ReAct it begins with the whole prompt of step s; in IRCoT, where all
passages stand before the question, with its instruction and passages. So vLLM's prefix cache reuses them,
and in training the steps of a chain share a trunk. Only where a prompt would outgrow its context are its
oldest passages left out (`steper_ray.reasoning.prompts`).

A framework is a module of plain functions that satisfies `Framework`; `FRAMEWORKS` names them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from steper_ray.reasoning.cleaning import clean
from steper_ray.schema import Passage

STEP_TERMINATOR: Final = "\n"
"""Ends a step that is one line, and every forced answer."""


EMPTY_LINE: Final = "\n\n"
"""What a model mostly writes where it begins with a line break: a single token of many tokenizers."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a model is asked, in two turns; a base model sees them as one text."""

    user: str
    """Instruction, demonstrations, question and what stands beside it, with the newlines that end it."""
    assistant: str
    """The reasoning so far, up to where the model goes on; no space at its end."""
    continued: str = ""
    """What the model has written since, as it wrote it (a thought that is not finished)."""

    @property
    def text(self) -> str:
        """The prompt of a base model."""
        return self.user + self.assistant + self.continued

    def headed(self, *blocks: str) -> "Prompt":
        """The prompt after blocks of text, an empty line between two."""
        return replace(self, user="\n\n".join([*blocks, self.user]))

    def going_on(self, written: str) -> "Prompt":
        """The prompt after more of the model's own text."""
        return replace(self, continued=self.continued + written)


@dataclass(frozen=True, slots=True)
class ParsedStep:
    """A step as the framework reads it."""

    rationale: str
    """r_s as it stands in chains, in later prompts and in targets: the text without surplus."""
    query: str
    """What it wants to search next; empty where it says nothing that could be searched."""
    answer: str | None
    """Its answer, without a full stop; None if it gives none."""
    cut_sentences: int = 0
    """Sentences that were written after the step and left out of it."""


class Framework(Protocol):
    """One way to reason with searches.

    searches:   P_1 … P_s, the new passages of each search; the first stands with the question
    rationales: r_1 … r_(s-1)
    forced:     whether the prompt itself begins the answer, so that whatever is written is one
    cue:        as CUE; a framework without one does not look at it
    """

    @property
    def INSTRUCTION(self) -> str:
        """Begins every prompt unless `reasoning.instruction` says otherwise."""
        ...

    @property
    def CUE(self) -> str:
        """Begins each step with its number unless `reasoning.cue` says otherwise; empty if none does."""
        ...

    @property
    def STOPS(self) -> tuple[str, ...]:
        """Texts that end a step that is not forced; four at most, which is what endpoints take."""
        ...

    def lay_out(
        self,
        question: str,
        searches: Sequence[Sequence[Passage]],
        rationales: Sequence[str],
        *,
        forced: bool,
        cue: str,
    ) -> Prompt:
        """The prompt of one step, without instruction and demonstrations."""
        ...

    def render_chain(
        self,
        question: str,
        searches: Sequence[Sequence[Passage]],
        rationales: Sequence[str],
        *,
        cue: str,
    ) -> str:
        """A finished chain as a demonstration shows it; as many searches as rationales."""
        ...

    def render_target(self, rationale: str, *, forced: bool) -> str:
        """What the model should write after the prompt, up to the end of the text that ends the step."""
        ...

    def render_path(self, rationales: Sequence[str], *, cue: str) -> str:
        """What a model should write that has all passages and writes r_1 … r_S at once (`vanilla-kd`).

        Cut at the first of `STOPS` it reads like the first step alone.
        """
        ...

    def parse(self, text: str, *, forced: bool, whole_line: bool = False) -> ParsedStep:
        """Read what was written after a prompt: a target, cut at its stop text or not, or worse.

        It takes off the marks of chat models itself (`steper_ray.reasoning.cleaning`). What it makes of a
        rationale that it has made is the same again.

        whole_line: whether a step that should be one sentence keeps all that stand on its line
        """
        ...

    def unfinished(self, text: str, *, forced: bool) -> str:
        """The text to put behind what was written, where a stop text ended it before it said anything.

        The model then goes on after it. Empty where the step is complete, which is nearly always.
        """
        ...


def ends_of(stops: Sequence[str], *, forced: bool) -> tuple[str, ...]:
    """Texts that end a step: those of its framework, or the end of the line of a forced answer."""
    return (STEP_TERMINATOR,) if forced else tuple(stops)


def render_passages(passages: Sequence[Passage]) -> list[str]:
    """One block of text for each passage; one without a title has no line for it."""
    return [
        (f"Title: {passage.title}\n" if passage.title else "") + f"Text: {passage.text}"
        for passage in passages
    ]


def render_question(question: str, searches: Sequence[Sequence[Passage]]) -> str:
    """The question, then the passages that stand with it, up to where the reasoning begins."""
    passages = [passage for search in searches for passage in search]
    return "\n\n".join([f"Question: {question}", *render_passages(passages), ""])


def empty_line(text: str) -> str:
    """See `Framework.unfinished`, of a step that ends with its line: an empty line is skipped."""
    return "" if clean(text) else EMPTY_LINE
