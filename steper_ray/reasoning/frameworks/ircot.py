"""IRCoT: one sentence a step, and the next search asks with that sentence (Trivedi et al. 2023, 3.1).

A prompt is the fixed instruction, then the passages in the order they were retrieved, then the
question and the reasoning so far, one step a line:

    <instruction>

    Title: <title>
    Text: <text>

    Question: <question>
    Step 1: <r_1>
    Step 2:

Nothing is ever re-sorted, so the prompt of step s+1 shares its beginning with that of step s. The model
continues with a space and the next sentence, and ends the step with a newline (`STEP_TERMINATOR`): were
the sentences on one line, the same text would ask for the next sentence at one step and for the end at
another. The answer stands in the sentence that has the answer flag.

The bundled toy models were trained on exactly this text.
"""

from collections.abc import Sequence
from typing import Final

from steper_ray.reasoning.frameworks.protocol import (
    STEP_TERMINATOR,
    ParsedStep,
    Prompt,
    clean_answer,
    render_passages,
)
from steper_ray.schema import Passage
from steper_ray.text import squeeze

ANSWER_FLAG: Final = "So the answer is:"


INSTRUCTION: Final = (
    "Answer the question step by step, one sentence at a time, using the passages. "
    f"End with: {ANSWER_FLAG}"
)


STOPS: Final = (STEP_TERMINATOR,)


def lay_out(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
) -> Prompt:
    """See `Framework`: P_≤s, then q, then R_<s (and the answer flag when `forced`)."""
    cue = f"Step {len(rationales) + 1}:" + (f" {ANSWER_FLAG}" if forced else "")
    return Prompt(_given(question, searches), _lines(rationales) + cue)


def render_chain(
    question: str, searches: Sequence[Sequence[Passage]], rationales: Sequence[str]
) -> str:
    """See `Framework`."""
    return (_given(question, searches) + _lines(rationales)).rstrip()


def render_target(rationale: str, *, forced: bool) -> str:
    """See `Framework`.

    rationale: r_s; of a forced step it begins with the answer flag, which stands in the prompt.
    """
    written = rationale.removeprefix(ANSWER_FLAG) if forced else f" {rationale}"
    return written + STEP_TERMINATOR


def render_path(rationales: Sequence[str]) -> str:
    """See `Framework`."""
    return _lines(rationales).removeprefix("Step 1:")


def parse(text: str, *, forced: bool) -> ParsedStep:
    """See `Framework`: the sentence is the next query."""
    sentence = squeeze(text)
    rationale = f"{ANSWER_FLAG} {sentence}".rstrip() if forced else sentence
    return ParsedStep(rationale, rationale, find_answer(rationale))


def find_answer(rationale: str) -> str | None:
    """The answer in a rationale, without its full stop; None if the answer flag is not in it."""
    start = rationale.lower().rfind(ANSWER_FLAG.lower())
    return None if start < 0 else clean_answer(rationale[start + len(ANSWER_FLAG) :])


def render_prompt(
    question: str,
    passages: Sequence[Passage],
    reasoning: Sequence[str] = (),
    *,
    forced: bool = False,
    instruction: str = INSTRUCTION,
) -> str:
    """The prompt of a base model with these passages, whichever search brought them."""
    return lay_out(question, [passages], reasoning, forced=forced).headed(instruction).text


def _given(question: str, searches: Sequence[Sequence[Passage]]) -> str:
    passages = [passage for search in searches for passage in search]
    return "\n\n".join([*render_passages(passages), f"Question: {question}\n"])


def _lines(rationales: Sequence[str]) -> str:
    return "".join(f"Step {s}: {r}{STEP_TERMINATOR}" for s, r in enumerate(rationales, 1))
