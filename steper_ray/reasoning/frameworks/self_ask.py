"""Self-Ask: a follow-up question is searched, then answered from what was found (Press et al. 2023).

    <instruction>

    Question: <question>

    Title: <title>
    Text: <text>

    Are follow up questions needed here: Yes.
    Follow up: <query>?

    Title: <title>
    Text: <text>

    Intermediate answer: <answer to the follow-up question>
    So the final answer is: <answer>

A step is what the model writes between two searches: whether a question is needed, or the answer to the
last one; then the next question, or the final answer. Unlike in the paper the question itself is searched
first, as in the other frameworks, so that the first step reasons from P_1 as StepER has it.

A step ends with the question mark of its follow-up question and a newline (no other line ends with one). A
step with the final answer ends where the next example would begin.
"""

import re
from collections.abc import Sequence
from typing import Final

from steper_ray.reasoning.answers import flagged, split_answer, with_colons
from steper_ray.reasoning.cleaning import clean, clean_line, unquoted
from steper_ray.reasoning.frameworks.protocol import (
    STEP_TERMINATOR,
    ParsedStep,
    Prompt,
    empty_line,
    render_passages,
    render_question,
)
from steper_ray.reasoning.frameworks.reading import settled
from steper_ray.schema import Passage
from steper_ray.sentences import end_sign, finished, is_unspaced

NEEDED: Final = "Are follow up questions needed here:"


FOLLOW_UP: Final = "Follow up:"


INTERMEDIATE: Final = "Intermediate answer:"


ANSWER_FLAG: Final = "So the final answer is:"


CUE: Final = ""


INSTRUCTION: Final = (
    "Answer the question with the help of a search engine. While something is missing, ask for it in one "
    f"sentence on a line of its own:\n{FOLLOW_UP} <one short question>?\n"
    "Passages found for it are shown. Then write its answer in a few words, and again a follow up "
    f"question, or when nothing more is needed:\n{ANSWER_FLAG} <the answer in a few words>."
)


STOPS: Final = ("?\n", "？\n", f"\n{INTERMEDIATE}", "\nQuestion:")


_END: Final = "\n\nQuestion:"
"""What a student learns to write after the final answer, as demonstrations have it."""


_LABEL: Final = r"\bfollow[ -]?ups?(?: questions?)?(?: ?\(?\#?\d+\)?)?(?: ?[:：]|(?<=\d)\.)"


_ASK: Final = re.compile(rf"{_LABEL}[ \n]?", re.IGNORECASE)


_NONE: Final = re.compile(
    rf"{_LABEL} ?(?:none|n/?a|nothing|no|not needed)\b[^\w\n]*$", re.IGNORECASE | re.MULTILINE
)
"""What stands in place of a question where none is needed."""


_NOT_NEEDED: Final = re.compile(r"no\b", re.IGNORECASE)


_QUESTION_MARKS: Final = "?？؟"


_BRACKETS: Final = {"(": ")", "（": "）", "[": "]"}


def lay_out(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    cue: str = CUE,  # noqa: ARG001
) -> Prompt:
    """See `Framework`; a forced prompt asks for the final answer in place of the intermediate one."""
    begun = ANSWER_FLAG if forced else _cue(len(rationales))
    return Prompt(render_question(question, searches[:1]), _trace(searches[1:], rationales) + begun)


def render_chain(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    cue: str = CUE,  # noqa: ARG001
) -> str:
    """See `Framework`."""
    return (render_question(question, searches[:1]) + _trace(searches[1:], rationales)).rstrip()


def render_target(rationale: str, *, forced: bool) -> str:
    """See `Framework`."""
    if forced:
        return rationale.removeprefix(ANSWER_FLAG) + STEP_TERMINATOR
    return _spaced(rationale) + (_END if _answers(rationale) else STEP_TERMINATOR)


def render_path(rationales: Sequence[str], *, cue: str = CUE) -> str:  # noqa: ARG001
    """See `Framework`."""
    first, *others = rationales
    lines = [_spaced(first), *(_line(step, r) for step, r in enumerate(others, 1))]
    return STEP_TERMINATOR.join(lines) + (_END if _answers(rationales[-1]) else STEP_TERMINATOR)


def parse(text: str, *, forced: bool, whole_line: bool = False) -> ParsedStep:  # noqa: ARG001
    """See `Framework`: the follow-up question or the final answer, whichever comes first, ends the step.

    A step may have several sentences.
    """
    return settled(text, _read, render_target, forced=forced, stops=STOPS)


def unfinished(text: str, *, forced: bool) -> str:
    """See `Framework`: a forced answer may stand behind an empty line."""
    return empty_line(text) if forced else ""


def _read(text: str, *, forced: bool) -> ParsedStep:
    """What a text says at a first look; see `settled`."""
    if forced:
        _, answer = split_answer(clean(f"{ANSWER_FLAG} {text}"), endings=_QUESTION_MARKS)
        rationale = flagged(ANSWER_FLAG, answer) if answer else ANSWER_FLAG
        return ParsedStep(rationale, "", answer)
    text = clean(_NONE.sub("", with_colons(clean(text))))
    for cue in (NEEDED, INTERMEDIATE):
        text = text.removeprefix(cue).lstrip()
    asks = _ASK.search(text)
    before, answer = split_answer(text[: asks.start()] if asks else text, endings=_QUESTION_MARKS)
    said = _unasked(before)
    if answer:
        return ParsedStep(_joined(finished(said), flagged(ANSWER_FLAG, answer)), "", answer)
    query = _question(text[asks.end() :].partition("\n")[0]) if asks else ""
    if not asks:
        said, query = _unlabelled(before)
    return ParsedStep(_joined(said, f"{FOLLOW_UP} {query}") if query else said, query, None)


def _trace(searches: Sequence[Sequence[Passage]], rationales: Sequence[str]) -> str:
    """The finished steps, each with the passages of the search after it."""
    parts = []
    for number, rationale in enumerate(rationales):
        parts += [_line(number, rationale), STEP_TERMINATOR]
        if passages := searches[number] if number < len(searches) else ():
            parts += ["\n", "\n\n".join(render_passages(passages)), "\n\n"]
    return "".join(parts)


def _line(done: int, rationale: str) -> str:
    """A finished step with its cue; a forced answer is its own."""
    if rationale.startswith(ANSWER_FLAG):
        return rationale
    return _cue(done) + _spaced(rationale)


def _cue(done: int) -> str:
    return INTERMEDIATE if done else NEEDED


def _spaced(rationale: str) -> str:
    """The rationale as it stands after its cue: on the next line where it says nothing but a label."""
    return f"\n{rationale}" if rationale.startswith((FOLLOW_UP, ANSWER_FLAG)) else f" {rationale}"


def _unlabelled(text: str) -> tuple[str, str]:
    """What is said and what is asked without a label: a question alone on its line.

    Its question mark may be gone with the stop text; then it is the last line, and ends like no sentence.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines):
        last = number == len(lines) - 1
        cut_off = last and number > 0 and not end_sign(line) and not _NOT_NEEDED.match(text)
        asks = cut_off or line.endswith(tuple(_QUESTION_MARKS))
        if asks and (query := _question(line)):
            return _unasked("\n".join(lines[:number])), query
    return _unasked(text), ""


def _question(line: str) -> str:
    """A question with one question mark, without what explains it; empty if nothing is asked."""
    end = max(map(line.rfind, _QUESTION_MARKS)) + 1
    question, behind = line[:end], line[end:]
    if question and behind.startswith(" ") and not _adds(behind.strip()):
        line = question
    query = _unasked(line.strip("<>[] "), endings=f"{_QUESTION_MARKS}.。")
    if not any(sign.isalnum() for sign in query):
        return ""
    return query + ("？" if is_unspaced(query[-1]) else "?")


def _adds(behind: str) -> bool:
    """Whether what follows a question mark has words outside of brackets."""
    return any(map(str.isalnum, behind)) and unquoted(behind, _BRACKETS) == behind


def _unasked(text: str, endings: str = _QUESTION_MARKS) -> str:
    """The text on one line, not ending like a question."""
    line = clean_line(text)
    while (bare := clean_line(line.rstrip(endings))) != line:
        line = bare
    return line


def _answers(rationale: str) -> bool:
    return rationale.rpartition("\n")[2].startswith(f"{ANSWER_FLAG} ")


def _joined(said: str, line: str) -> str:
    return f"{said}\n{line}" if said else line
