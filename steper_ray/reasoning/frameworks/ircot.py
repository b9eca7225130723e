"""IRCoT: one sentence a step, and the next search asks with that sentence (Trivedi et al. 2023, 3.1).

A prompt is the fixed instruction, then the passages in the order they were retrieved, then the
question and the reasoning so far, one step a line:

    <instruction>

    Title: <title>
    Text: <text>

    Question: <question>
    Fact 1: <r_1>
    Fact 2:

Nothing is ever re-sorted, so the prompt of step s+1 shares its beginning with that of step s. The model
continues with a space and the next sentence, and ends the step with a newline (`STEP_TERMINATOR`): were
the sentences on one line, the same text would ask for the next sentence at one step and for the end at
another. The answer stands in the sentence that has the answer flag. What stands before the number is a
setting (`reasoning.cue`).

The bundled toy models were trained on exactly this text, with `Step` as the cue and an instruction of
their own (`steper_ray.toy.asking`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

from steper_ray.reasoning.answers import ends_in_flag, flagged, split_answer, with_colons
from steper_ray.reasoning.cleaning import clean, clean_line
from steper_ray.reasoning.frameworks.protocol import (
    STEP_TERMINATOR,
    ParsedStep,
    Prompt,
    empty_line,
    render_passages,
)
from steper_ray.reasoning.frameworks.reading import settled
from steper_ray.schema import Passage
from steper_ray.sentences import sentences

ANSWER_FLAG: Final = "So the answer is:"


CUE: Final = "Fact"
"""After `Step 1:` chat models plan what to look for, after `Fact 1:` they state a fact."""


INSTRUCTION: Final = (
    "Answer the question with facts from the passages, one a line. A line is one sentence that states one "
    "fact. As soon as the facts give the answer, end the line like this, with the answer in a few words:\n"
    f"{ANSWER_FLAG} <answer>."
)


STOPS: Final = (STEP_TERMINATOR,)


def lay_out(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    cue: str = CUE,
) -> Prompt:
    """See `Framework`: P_≤s, then q, then R_<s (and the answer flag when `forced`)."""
    begun = f"{cue} {len(rationales) + 1}:" + (f" {ANSWER_FLAG}" if forced else "")
    return Prompt(_given(question, searches), _lines(rationales, cue) + begun)


def render_chain(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    cue: str = CUE,
) -> str:
    """See `Framework`."""
    return (_given(question, searches) + _lines(rationales, cue)).rstrip()


def render_target(rationale: str, *, forced: bool) -> str:
    """See `Framework`.

    rationale: r_s; of a forced step it begins with the answer flag, which stands in the prompt.
    """
    written = rationale.removeprefix(ANSWER_FLAG) if forced else f" {rationale}"
    return written + STEP_TERMINATOR


def render_path(rationales: Sequence[str], *, cue: str = CUE) -> str:
    """See `Framework`."""
    return _lines(rationales, cue).removeprefix(f"{cue} 1:")


def parse(text: str, *, forced: bool, whole_line: bool = False) -> ParsedStep:
    """See `Framework`: one sentence, or the line up to the answer, is the step and the next query."""
    read = partial(_read, whole_line=whole_line)
    return settled(text, read, render_target, forced=forced, stops=STOPS)


def unfinished(text: str, *, forced: bool) -> str:  # noqa: ARG001
    """See `Framework`: an empty line is skipped, and an answer may stand on the line after its flag."""
    line = _line(text)
    return STEP_TERMINATOR if ends_in_flag(line) else empty_line(line)


def render_prompt(
    question: str,
    passages: Sequence[Passage],
    reasoning: Sequence[str] = (),
    *,
    forced: bool = False,
    instruction: str = INSTRUCTION,
    cue: str = CUE,
) -> str:
    """The prompt of a base model with these passages, whichever search brought them."""
    prompt = lay_out(question, [passages], reasoning, forced=forced, cue=cue)
    return prompt.headed(instruction).text


def _read(text: str, *, forced: bool, whole_line: bool) -> ParsedStep:
    """What a text says at a first look; see `settled`."""
    if forced:
        _, answer = split_answer(clean(f"{ANSWER_FLAG} {text}"))
        rationale = flagged(ANSWER_FLAG, answer) if answer else ANSWER_FLAG
        return ParsedStep(rationale, rationale, answer)
    before, answer = split_answer(_line(text))
    cut = 0
    if answer:
        step = f"{before} {flagged(ANSWER_FLAG, answer)}".lstrip()
    else:
        spans = sentences(before)
        cut = 0 if whole_line else max(0, len(spans) - 1)
        step = before[: spans[0][1]] if cut else before
    return ParsedStep(step, step, answer or None, cut)


def _line(text: str) -> str:
    """The text on one line without marks; a heading over the answer has become a flag."""
    return clean_line(with_colons(clean(text)))


def _given(question: str, searches: Sequence[Sequence[Passage]]) -> str:
    passages = [passage for search in searches for passage in search]
    return "\n\n".join([*render_passages(passages), f"Question: {question}\n"])


def _lines(rationales: Sequence[str], cue: str) -> str:
    return "".join(f"{cue} {s}: {r}{STEP_TERMINATOR}" for s, r in enumerate(rationales, 1))
