"""From chains to step-wise examples: which chains to keep, and one example per step (StepER, 3.2).

Pure functions of chains and settings: choosing again costs seconds and no teacher. Here each chain is
judged alone; which of those that pass are taken is decided in `steper_ray.stepwise.choose`.
"""

from typing import Annotated, Final, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from steper_ray.evaluation.metrics import normalize
from steper_ray.reasoning.framework import Framework
from steper_ray.reasoning.frameworks import framework_named
from steper_ray.reasoning.prompts import make_prompt, split_searches
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.schema import Ability, Chain, StepExample
from steper_ray.section import Section
from steper_ray.stepwise.grounding import ungrounded

REJECTIONS: Final = {
    "error": "the teacher could not work on the question",
    "wrong_answer": "the answer does not match a gold answer as select.match asks",
    "empty_step": "a step says nothing",
    "forced": "the answer had to be forced",
    "rationalized": "the teacher was shown the gold answer",
    "early_answer": "an answer is given before the last step",
    "no_query": "a step before the last names nothing to search for",
    "repeated_step": "a step says what an earlier one has said",
    "ungrounded": "a name or number in a step is in nothing that the step saw",
    "unsupported": "too few of the gold supporting passages were found",
    "low_confidence": "the teacher was too unsure of a step",
    "too_few_steps": "fewer steps than select.min_steps",
    "too_many_steps": "more steps than select.max_steps",
    "short_step": "a step has fewer words than select.min_words",
    "long_step": "a step has more words than select.max_words",
    "outvoted": "most of the question's chains give another answer",
    "duplicate": "another chain of the question says the same",
    "not_chosen": "another chain of the question is taken",
    "surplus": "enough chains of this hop count are kept",
}
"""Reason code → what it means, in the order of asking; the first that applies is a chain's reason."""


AMONG_OTHERS: Final = ("outvoted", "duplicate", "not_chosen", "surplus")
"""Reasons that no chain has by itself."""


class SelectConfig(Section):
    """Which chains become training data."""

    match: Literal["em", "f1", "contained"] = "em"
    """How the answer must match the best of the gold answers, after normalisation: `em` equals it, `f1`
    has a token F1 of at least min_f1, `contained` has it inside on word boundaries."""
    min_f1: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Least F1 for `match: f1`."""
    keep_forced: bool = True
    """Keep chains whose answer had to be forced at the last step."""
    keep_rationalized: bool = True
    """Keep chains for which the teacher was shown the gold answer."""
    grounded: bool = True
    """Leave out chains with a name or number in a step that is in none of its passages, the earlier steps
    and the question (see stepwise/grounding.py); false for languages that capitalise more than names."""
    repeated_steps: bool = False
    """Keep chains in which a step says what an earlier one has said."""
    min_support: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Least share of the gold supporting passages that a chain must have found; a question for which none
    are named is not asked."""
    min_logprob: Annotated[float, Field(le=0)] | None = None
    """Least mean token log-probability of the worst step, in nats; null does not ask, and a step without
    log-probabilities passes."""
    min_steps: PositiveInt = 1
    """Fewest steps of a chain."""
    max_steps: PositiveInt | None = None
    """Most steps of a chain; null does not ask."""
    min_words: PositiveInt = 1
    """Fewest words of a step's rationale."""
    max_words: PositiveInt | None = None
    """Most words of a step's rationale; null does not ask."""
    choose: Literal["first", "confident", "majority", "all"] = "first"
    """Which of a question's chains is taken, of those that pass: the `first` in the order of asking (first
    attempts before second ones, those with the answer shown last); the most `confident`, by its worst step;
    by `majority` the most confident of those that give the answer which most of the question's chains
    give, passing or not; or `all`, but for those that say the same."""
    per_hops: int | Literal["equal"] | None = None
    """Most chains kept of each hop count; `equal` keeps as many of each as of the rarest, null keeps all.
    Chains of unknown hop count are a group of their own."""

    @field_validator("per_hops", mode="before")
    @classmethod
    def _check_share(cls, share: object) -> object:
        number = isinstance(share, int) and not isinstance(share, bool) and share > 0
        if share is not None and share != "equal" and not number:
            raise ValueError("expected a number of chains above 0, `equal` or null")
        return share

    @model_validator(mode="after")
    def _check_bounds(self) -> "SelectConfig":
        for low, high in (("min_steps", "max_steps"), ("min_words", "max_words")):
            most = getattr(self, high)
            if most is not None and most < getattr(self, low):
                raise ValueError(f"{high} must be at least {low}, {getattr(self, low)}; got {most}")
        return self


def rejection(chain: Chain, config: SelectConfig, framework: Framework) -> str | None:
    """The reason code why a chain is left out, looked at alone; None if it is kept."""
    if chain.error is not None:
        return "error"
    if not _answer_matches(chain, config):
        return "wrong_answer"
    if any(not step.rationale.strip() for step in chain.steps):
        return "empty_step"
    if chain.forced and not config.keep_forced:
        return "forced"
    if chain.rationalized and not config.keep_rationalized:
        return "rationalized"
    before = [framework.parse(step.rationale, forced=False) for step in chain.steps[:-1]]
    if any(written.answer is not None for written in before):
        return "early_answer"
    if any(not written.query for written in before):
        return "no_query"
    said = [normalize(step.rationale) for step in chain.steps]
    if len(set(said)) < len(said) and not config.repeated_steps:
        return "repeated_step"
    if config.grounded and ungrounded(chain):
        return "ungrounded"
    if supporting_share(chain) < config.min_support:
        return "unsupported"
    if _is_unsure(chain, config):
        return "low_confidence"
    return _bad_length(chain, config)


def supporting_share(chain: Chain) -> float:
    """Share of the gold supporting passages that the chain has found, in [0, 1]; 1 where none are named."""
    gold = set(chain.supporting_ids)
    found = gold & {passage.id for passage in chain.passages}
    return len(found) / len(gold) if gold else 1.0


def worst_logprob(chain: Chain) -> float | None:
    """Mean token log-probability of the step the teacher was least sure of; None where none has one."""
    known = [step.mean_logprob for step in chain.steps if step.mean_logprob is not None]
    return min(known, default=None)


def _answer_matches(chain: Chain, config: SelectConfig) -> bool:
    if config.match == "f1":
        return chain.f1 >= config.min_f1
    return (chain.em if config.match == "em" else chain.acc) == 1.0


def _is_unsure(chain: Chain, config: SelectConfig) -> bool:
    worst = worst_logprob(chain)
    return worst is not None and config.min_logprob is not None and worst < config.min_logprob


def _bad_length(chain: Chain, config: SelectConfig) -> str | None:
    if len(chain.steps) < config.min_steps:
        return "too_few_steps"
    if config.max_steps is not None and len(chain.steps) > config.max_steps:
        return "too_many_steps"
    words = [len(step.rationale.split()) for step in chain.steps]
    if min(words) < config.min_words:
        return "short_step"
    if config.max_words is not None and max(words) > config.max_words:
        return "long_step"
    return None


def ability_of(step: int, steps: int) -> Ability:
    """The ability that step `step` (from 1) of a chain of `steps` teaches."""
    if step == steps:
        return "agg"
    return "init" if step == 1 else "exp"


def explode(chain: Chain, settings: ReasoningConfig) -> list[StepExample]:
    """One example per step: q, P_≤s and R_<s as input, r_s with what ends it as target.

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
                ability=ability_of(number, len(chain.steps)),
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
