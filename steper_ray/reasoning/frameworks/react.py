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

from steper_ray.reasoning.answers import bare_answer, split_answer
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

THOUGHT: Final = "Thought:"


OBSERVATION: Final = "Observation:"


NOTHING: Final = "no further passages"
"""Stands in an observation without passages."""


FORCED: Final = "I have to answer with what I have found.\nAction: Finish["
"""Begins the last step when the answer is forced."""


CUE: Final = ""


INSTRUCTION: Final = (
    "Answer the question with the help of a search engine, in turns of a thought and an action. A thought "
    "is one sentence. The action stands on the line after it, and is one of these two:\n"
    "Action: Search[<what to look up>]\n"
    "Action: Finish[<the answer in a few words>]\n"
    "A search shows passages."
)


_END: Final = "]\n"


STOPS: Final = (_END, f"\n{OBSERVATION}", "\nQuestion:")


_LABEL: Final = r"\baction(?: ?\(?\#?\d+\)?)? ?[:：]"


_LABELLED: Final = re.compile(
    rf"{_LABEL}\s?(?P<name>search|finish) ?(?P<opening>[\[(［（【:：]|\n(?:action )?input ?[:：]|$)",
    re.IGNORECASE | re.MULTILINE,
)
"""An action with its label; what it acts on may stand on a line of its own, as LangChain has it."""


_BARE: Final = re.compile(
    r"(?:^|(?<=[.!?…] )|(?<=[。！？]))(?P<name>search|finish)(?P<opening> ?[\[［【]|[(（])",
    re.IGNORECASE | re.MULTILINE,
)
"""An action without its label, at the beginning of a line or a sentence."""


_BEGUN: Final = re.compile(rf"(?:\A|{_LABEL} ?)finish ?[\[(]", re.IGNORECASE)
"""What a forced prompt has already; a thought may stand before it."""


_CLOSING: Final = {"[": "]", "(": ")", "［": "］", "（": "）", "【": "】"}


_ROUND: Final = str.maketrans("[]", "()")


def lay_out(
    question: str,
    searches: Sequence[Sequence[Passage]],
    rationales: Sequence[str],
    *,
    forced: bool,
    cue: str = CUE,  # noqa: ARG001
) -> Prompt:
    """See `Framework`; a forced prompt has the last thought written and its action begun."""
    begun = f"{THOUGHT} {FORCED}" if forced else THOUGHT
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
    written = rationale.removeprefix(FORCED) if forced else _spaced(rationale)
    return written + STEP_TERMINATOR


def render_path(rationales: Sequence[str], *, cue: str = CUE) -> str:  # noqa: ARG001
    """See `Framework`; a path has no observations."""
    return "".join(f"{THOUGHT}{_spaced(r)}{STEP_TERMINATOR}" for r in rationales).removeprefix(
        THOUGHT
    )


def parse(text: str, *, forced: bool, whole_line: bool = False) -> ParsedStep:  # noqa: ARG001
    """See `Framework`: the first action counts, and nothing after it.

    A thought may have several sentences.
    """
    return settled(text, _read, render_target, forced=forced, stops=STOPS)


def unfinished(text: str, *, forced: bool) -> str:
    """See `Framework`: a bracket that ends a line of the thought (a citation) ends no step."""
    if forced:
        return empty_line(text)
    cleaned = clean(text)
    acts = _BARE.search(cleaned) or re.search(_LABEL, cleaned, re.IGNORECASE)
    return _END if text.rfind("[") > text.rfind("]") and not acts else ""


def _read(text: str, *, forced: bool) -> ParsedStep:
    """What a text says at a first look; see `settled`."""
    text = clean(f"{FORCED}{_unbegun(text)}" if forced else text)
    action = _action(text)
    if action is None:
        return ParsedStep(_thought(text), "", None)
    thought = _thought(text[: action.start()])
    argument = unquoted(_inside(text[action.end() :].partition("\n")[0], action["opening"].strip()))
    if action["name"].casefold() == "finish":
        answer = (split_answer(argument).answer or bare_answer(argument)).translate(_ROUND)
        rationale = f"{thought}\nAction: Finish[{answer}]".lstrip()
        return ParsedStep(rationale, "", answer if answer or forced else None)
    query = argument.strip("<> ").translate(_ROUND)
    return ParsedStep(f"{thought}\nAction: Search[{query}]".lstrip(), query, None)


def _action(text: str) -> re.Match[str] | None:
    """The first action in a cleaned text, one with a label if there is any."""
    return _LABELLED.search(text) or _BARE.search(text)


def _unbegun(text: str) -> str:
    """A forced answer without what the prompt has already begun."""
    cleaned = clean(text)
    begun = _BEGUN.search(cleaned)
    return cleaned[begun.end() :] if begun else text.lstrip()


def _thought(text: str) -> str:
    """A thought on one line, without the label that the prompt has already and without square brackets."""
    return clean_line(clean_line(text.translate(_ROUND)).removeprefix(THOUGHT))


def _inside(line: str, opening: str) -> str:
    """What stands before the bracket that closes the action; all of it where the line ends before."""
    closing, depth = _CLOSING.get(opening), 1
    for place, sign in enumerate(line):
        depth += (sign == opening) - (sign == closing)
        if not depth:
            return line[:place].strip()
    return line.strip()


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
    return f"\n{rationale}" if rationale.startswith("Action:") else f" {rationale}"
