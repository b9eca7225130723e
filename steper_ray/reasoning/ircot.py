"""How a step's prompt is laid out: the one place that knows (IRCoT, Trivedi et al. 2023, section 3.1).

A prompt is the fixed instruction, then the passages in the order they were retrieved, then the
question and the reasoning so far, one step a line:

    <instruction>

    Title: <title>
    Text: <text>

    Question: <question>
    Step 1: <r_1>
    Step 2:

Nothing is ever re-sorted, so the prompt of step s+1 shares its beginning with that of step s: vLLM's
prefix cache reuses it, and in training all steps of a chain share one trunk. The model continues with
a space and the next sentence, and ends the step with a newline (`STEP_TERMINATOR`): were the sentences
on one line, the same text would ask for the next sentence at one step and for the end at another.

Teacher, training, evaluation and server all render through `render_prompt`, so that what the student
is trained on is what it is asked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from steper_ray.schema import Passage

ANSWER_FLAG: Final = "So the answer is:"
STEP_TERMINATOR: Final = "\n"

INSTRUCTION: Final = (
    "Answer the question step by step, one sentence at a time, using the passages. "
    f"End with: {ANSWER_FLAG}"
)


@dataclass(frozen=True, slots=True)
class FittedPrompt:
    """A prompt that fits its context."""

    text: str
    dropped_passages: int
    """How many of the oldest passages had to go."""
    tokens: int


def render_prompt(
    question: str,
    passages: Sequence[Passage],
    reasoning: Sequence[str] = (),
    *,
    forced: bool = False,
    instruction: str = INSTRUCTION,
) -> str:
    """The prompt of one step: P_≤s, then q, then R_<s (and the answer flag when `forced`)."""
    trunk = [instruction, *(f"Title: {p.title}\nText: {p.text}" for p in passages)]
    lines = [f"Question: {question}", *(f"Step {s}: {r}" for s, r in enumerate(reasoning, 1))]
    lines.append(f"Step {len(reasoning) + 1}:" + (f" {ANSWER_FLAG}" if forced else ""))
    return "\n\n".join([*trunk, STEP_TERMINATOR.join(lines)])


def render_target(rationale: str, *, forced: bool) -> str:
    """What the model should write after the prompt, terminator included.

    rationale: r_s; of a forced step it begins with the answer flag, which stands in the prompt.
    """
    written = rationale.removeprefix(ANSWER_FLAG) if forced else f" {rationale}"
    return written + STEP_TERMINATOR


def render_path(rationales: Sequence[str]) -> str:
    """What a model that writes the whole reasoning at once should write after the first step's prompt.

    rationales: r_1 … r_S. Cut at its first terminator it reads like the target of a single step.
    """
    first, *others = rationales
    lines = [f" {first}", *(f"Step {s}: {r}" for s, r in enumerate(others, 2)), ""]
    return STEP_TERMINATOR.join(lines)


def fit_prompt(
    question: str,
    passages: Sequence[Passage],
    reasoning: Sequence[str],
    *,
    forced: bool,
    instruction: str,
    max_tokens: int,
    count_tokens: Callable[[str], int],
) -> FittedPrompt:
    """Render a prompt of at most `max_tokens`, dropping whole passages, oldest first.

    The question and the reasoning are never cut. With no passage left the prompt is returned even if
    it is still too long; the engine then refuses it with its own error.
    """
    for dropped in range(len(passages) + 1):
        text = render_prompt(
            question, passages[dropped:], reasoning, forced=forced, instruction=instruction
        )
        tokens = count_tokens(text)
        if tokens <= max_tokens or dropped == len(passages):
            return FittedPrompt(text, dropped, tokens)
    raise AssertionError("unreachable: the loop returns at its last turn")


def find_answer(rationale: str) -> str | None:
    """The answer in a rationale, without its full stop; None if the answer flag is not in it."""
    start = rationale.lower().rfind(ANSWER_FLAG.lower())
    if start < 0:
        return None
    return rationale[start + len(ANSWER_FLAG) :].strip().removesuffix(".").rstrip()
