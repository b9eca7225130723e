"""How the bundled models are asked: the text around questions that they were trained on, to the character.

`steper_ray/toy/run.yaml` has the same, and a run with other words would find them useless.
"""

from collections.abc import Sequence
from typing import Any, Final

from steper_ray.reasoning.frameworks import ircot
from steper_ray.schema import Passage

INSTRUCTION: Final = (
    "Answer the question step by step, one sentence at a time, using the passages. "
    f"End with: {ircot.ANSWER_FLAG}"
)


CUE: Final = "Step"


REASONING: Final[dict[str, Any]] = {"instruction": INSTRUCTION, "cue": CUE}
"""Settings of the section `reasoning` that say so."""


def render_prompt(question: str, passages: Sequence[Passage], reasoning: Sequence[str] = ()) -> str:
    """The prompt of a bundled model."""
    return ircot.render_prompt(question, passages, reasoning, instruction=INSTRUCTION, cue=CUE)
