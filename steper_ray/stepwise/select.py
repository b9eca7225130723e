"""From chains to step-wise examples: which chains to keep, and one example per step (StepER, 3.2).

Pure functions of chains and settings: choosing again costs seconds and no teacher.
"""

from typing import Final, Literal

from steper_ray.reasoning.ircot import render_prompt, render_target
from steper_ray.schema import Chain, Stage, StepExample
from steper_ray.section import Section

REJECTIONS: Final = {
    "error": "the teacher could not work on the question",
    "wrong_answer": "the answer matches no gold answer",
    "empty_step": "a step says nothing",
    "forced": "the answer had to be forced",
}


class SelectConfig(Section):
    """Which chains become training data."""

    match: Literal["em"] = "em"
    """How the answer must match: exact match after normalisation, against every alias."""
    keep_forced: bool = True
    """Keep chains whose answer had to be forced at the last step."""


def rejection(chain: Chain, config: SelectConfig) -> str | None:
    """The reason code why a chain is left out, None if it is kept."""
    if chain.error is not None:
        return "error"
    if chain.em < 1.0:
        return "wrong_answer"
    if any(not step.rationale for step in chain.steps):
        return "empty_step"
    if chain.forced and not config.keep_forced:
        return "forced"
    return None


def stage_of(step: int, steps: int) -> Stage:
    """The ability that step `step` (from 1) of a chain of `steps` teaches."""
    if step == steps:
        return "agg"
    return "init" if step == 1 else "exp"


def explode(chain: Chain, instruction: str) -> list[StepExample]:
    """One example per step: q, P_≤s and R_<s as input, r_s with its terminator as target."""
    examples = []
    rationales = tuple(step.rationale for step in chain.steps)
    seen = 0
    for number, step in enumerate(chain.steps, 1):
        seen += len(step.passage_ids)
        passages, reasoning = chain.passages[:seen], rationales[: number - 1]
        forced = chain.forced and number == len(chain.steps)
        examples.append(
            StepExample(
                id=f"{chain.id}/{number}",
                chain_id=chain.id,
                step=number,
                stage=stage_of(number, len(chain.steps)),
                question=chain.question,
                passages=passages,
                reasoning=reasoning,
                forced=forced,
                prompt=render_prompt(
                    chain.question, passages, reasoning, forced=forced, instruction=instruction
                ),
                target=render_target(step.rationale, forced=forced),
            )
        )
    return examples
