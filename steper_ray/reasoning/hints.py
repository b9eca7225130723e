"""What a teacher may be told besides the question: criticism of its first attempt, or the gold answer.

*Self-correction*: shown its own chain and told that the answer is wrong, the teacher says what went wrong,
and answers again with both before it (as in Self-Refine, Madaan et al. 2023, with the verdict from the
gold answer, which itself is not shown). *Rationalization*: shown the gold answer, it reasons towards it
(STaR, Zelikman et al. 2022, section 3.2).

A hint stands in the teacher's prompt only. The student's examples are rendered without it.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from steper_ray.engines.protocol import GREEDY, Engine, Generation, Sampling
from steper_ray.reasoning.frameworks import cue_of, framework_named
from steper_ray.reasoning.frameworks.protocol import STEP_TERMINATOR, Prompt
from steper_ray.reasoning.prompts import drop_oldest, split_searches
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.reasoning.thinking import generate_step
from steper_ray.schema import Chain, Passage

ASKED: Final = (
    "This reasoning came to a wrong answer. Say in one sentence which step goes wrong, and why."
)


CUE: Final = "Criticism:"


async def criticize(
    chain: Chain, *, engine: Engine, settings: ReasoningConfig, sampling: Sampling = GREEDY
) -> Generation:
    """What a model says is wrong with its own chain, in at most `max_step_tokens` tokens.

    The passages that do not fit into `max_prompt_tokens` are left out, oldest first.
    """
    rationales = [step.rationale for step in chain.steps]
    searches = split_searches(chain.passages, [len(step.passage_ids) for step in chain.steps])

    def make(left: Sequence[Sequence[Passage]]) -> Prompt:
        framework, cue = framework_named(settings.framework), cue_of(settings)
        shown = framework.render_chain(chain.question, left, rationales, cue=cue)
        return Prompt(f"{shown}\n\n{ASKED}\n\n", CUE)

    fitted = await asyncio.to_thread(
        drop_oldest, searches, make, settings.max_prompt_tokens, engine
    )
    return await generate_step(
        engine,
        fitted.prompt,
        stop=(STEP_TERMINATOR,),
        max_tokens=settings.max_step_tokens,
        sampling=sampling,
    )


def correction_hint(chain: Chain, critique: str) -> str:
    """What stands before the question at the second attempt: the first one, and what was wrong with it."""
    lines = [step.rationale for step in chain.steps]
    attempt = "\n".join(["A first attempt at this question came to a wrong answer:", *lines])
    return f"{attempt}\n{CUE} {critique}\nReason again, and better."


def rationalization_hint(answer: str) -> str:
    """What stands before the question where the gold answer is shown."""
    return (
        f"The answer to this question is known to be: {answer}\n"
        "Find it from the passages, in reasoning that does not mention that it was known."
    )
