"""Chain → one training example per step (StepER, section 3.2)."""

from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.prompts import make_prompt, split_searches
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Chain, StepExample
from steper_ray.selection.abilities import STEPER, AbilityScheme


def step_examples(
    chain: Chain, settings: ReasoningConfig, scheme: AbilityScheme = STEPER
) -> list[StepExample]:
    """One example per step: q, P_≤s and R_<s as input, r_s with the text that ends the step as target.

    settings: how the student will be asked
    """
    framework, examples = framework_named(settings.framework), []
    rationales = tuple(step.rationale for step in chain.steps)
    counts = tuple(len(step.passage_ids) for step in chain.steps)
    for number, step in enumerate(chain.steps, 1):
        found, reasoning = counts[:number], rationales[: number - 1]
        passages = chain.passages[: sum(found)]
        forced = chain.forced and number == len(chain.steps)
        searches = split_searches(passages, found)
        prompt = make_prompt(settings, chain.question, searches, reasoning, forced=forced)
        examples.append(
            StepExample(
                id=f"{chain.id}/{number}",
                chain_id=chain.id,
                step=number,
                ability=scheme.of(number, len(chain.steps)),
                question=chain.question,
                passages=passages,
                reasoning=reasoning,
                forced=forced,
                prompt=prompt.text,
                target=framework.render_target(step.rationale, forced=forced),
                found=found,
            )
        )
    return examples
