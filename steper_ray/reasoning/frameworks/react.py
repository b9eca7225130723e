"""ReAct: a thought, then an action, then what was observed (Yao et al. 2023).

    <instruction>

    Question: <question>

    Title: <title>
    Text: <text>

    Thought: <thought>
    Action: Search[<query>]
    Observation:

    Title: <title>
    Text: <text>

    Thought: <thought>
    Action: Finish[<answer>]

A step is a thought with its action. Unlike in the paper the question itself is searched first, as in the
other frameworks, so that the first step reasons from P_1 as StepER has it.

A step ends with the bracket of its action and a newline. All other square brackets become round, so that
nothing else ends one.
"""

import re
from collections.abc import Sequence
from typing import Final

from steper_ray.reasoning.frameworks.protocol import (
    STEP_TERMINATOR,
    ParsedStep,
    Prompt,
    clean_answer,
    render_passages,
    render_question,
)
from steper_ray.schema import Passage
from steper_ray.text import squeeze

THOUGHT: Final = "Thought:"


OBSERVATION: Final = "Observation:"


NOTHING: Final = "no further passages"
"""Stands in an observation without passages."""


FORCED: Final = "I have to answer with what I have found.\nAction: Finish["
"""Begins the last step when the answer is forced."""


INSTRUCTION: Final = (
    "Answer the question with the help of a search engine, in turns of a thought and an action. The action "
    "is Search[what to look up], which shows passages, or Finish[the answer in a few words]."
)


STOPS: Final = ("]\n", f"\n{OBSERVATION}", "\nQuestion:")


_ACTION: Final = re.compile(r"\baction(?: \d+)?\s*:\s*(search|finish)\s*\[", re.IGNORECASE)


_ROUND: Final = str.maketrans("[]", "()")


def lay_out(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
) -> Prompt:
    """See `Framework`; a forced prompt has the last thought written and its action begun."""
    cue = f"{THOUGHT} {FORCED}" if forced else THOUGHT
    return Prompt(render_question(question, searches[:1]), _trace(searches[1:], rationales) + cue)


def render_chain(
    question: str, searches: Sequence[Sequence[Passage]], rationales: Sequence[str]
) -> str:
    """See `Framework`."""
    return (render_question(question, searches[:1]) + _trace(searches[1:], rationales)).rstrip()


def render_target(rationale: str, *, forced: bool) -> str:
    """See `Framework`."""
    written = rationale.removeprefix(FORCED) if forced else _spaced(rationale)
    return written + STEP_TERMINATOR


def render_path(rationales: Sequence[str]) -> str:
    """See `Framework`; a path has no observations."""
    return "".join(f"{THOUGHT}{_spaced(r)}{STEP_TERMINATOR}" for r in rationales).removeprefix(
        THOUGHT
    )


def parse(text: str, *, forced: bool) -> ParsedStep:
    """See `Framework`: the first action counts, and nothing after it."""
    text = FORCED + squeeze(text) if forced else text
    action = _ACTION.search(text)
    if action is None:
        return ParsedStep(squeeze(text).translate(_ROUND), "", None)
    thought = squeeze(text[: action.start()]).translate(_ROUND)
    inside = squeeze(_inside(text[action.end() :].partition("\n")[0])).translate(_ROUND)
    name = action[1].capitalize()
    rationale = f"{thought}\nAction: {name}[{inside}]".lstrip()
    if name == "Finish":
        return ParsedStep(rationale, "", clean_answer(inside))
    return ParsedStep(rationale, inside, None)


def _inside(line: str) -> str:
    """What stands before the bracket that closes the action; all of it where the line ends before."""
    depth = 1
    for place, sign in enumerate(line):
        depth += (sign == "[") - (sign == "]")
        if not depth:
            return line[:place]
    return line


def _trace(searches: Sequence[Sequence[Passage]], rationales: Sequence[str]) -> str:
    """The finished steps, each with what was observed after it."""
    parts = []
    for number, rationale in enumerate(rationales):
        parts += [THOUGHT, _spaced(rationale), STEP_TERMINATOR]
        if number < len(searches) and parse(rationale, forced=False).query:
            found = "\n\n".join(["", *render_passages(searches[number]), ""])
            parts += [OBSERVATION, found if searches[number] else f" {NOTHING}\n"]
    return "".join(parts)


def _spaced(rationale: str) -> str:
    """The rationale as it stands after its cue: on the next line where it is an action alone."""
    return f"\n{rationale}" if _ACTION.match(rationale) else f" {rationale}"
