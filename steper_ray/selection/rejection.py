"""Reasons to reject a chain by itself (StepER, 3.2).

Pure functions of a chain and settings: selecting again costs seconds and no teacher. The choice among
chains that pass is made in `steper_ray.selection.choice`.
"""

from typing import Final

from steper_ray.reasoning.frameworks.protocol import Framework
from steper_ray.schema import Chain
from steper_ray.selection.facts import states_nothing
from steper_ray.selection.grounding import ungrounded
from steper_ray.selection.settings import SelectConfig
from steper_ray.tasks.qa import normalize

REJECTIONS: Final = {
    "error": "the teacher could not work on the question",
    "wrong_answer": "the answer does not match a gold answer as select.match asks",
    "empty_step": "a step says nothing",
    "cut_off": "a step was cut off by reasoning.max_step_tokens",
    "forced": "the answer had to be forced",
    "rationalized": "the teacher was shown the gold answer",
    "early_answer": "an answer is given before the last step",
    "no_query": "a step before the last names nothing to search for",
    "repeated_step": "a step says what an earlier one has said",
    "no_fact": "no step before the last states anything that the question does not say",
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
"""Reason code → meaning, in the order of the checks; a chain has the first reason that applies."""


AMONG_OTHERS: Final = ("outvoted", "duplicate", "not_chosen", "surplus")
"""Reasons that depend on other chains."""


def rejection(chain: Chain, config: SelectConfig, framework: Framework) -> str | None:
    """Reason code of rejecting a chain by itself; None if it passes."""
    if chain.error is not None:
        return "error"
    if not _answer_matches(chain, config):
        return "wrong_answer"
    if any(not step.rationale.strip() for step in chain.steps):
        return "empty_step"
    if any(step.is_cut_off for step in chain.steps) and not config.keep_cut_off:
        return "cut_off"
    if chain.answer_forced and not config.keep_forced:
        return "forced"
    if chain.rationalized and not config.keep_rationalized:
        return "rationalized"
    before = [framework.parse(step.rationale, forced=False) for step in chain.steps[:-1]]
    if any(written.answer is not None for written in before):
        return "early_answer"
    if any(not written.query for written in before):
        return "no_query"
    texts = [normalize(step.rationale) for step in chain.steps]
    if len(set(texts)) < len(texts) and not config.repeated_steps:
        return "repeated_step"
    if states_nothing(chain, before):
        return "no_fact"
    if faults(chain, config):
        return "ungrounded"
    if supporting_share(chain) < config.min_support:
        return "unsupported"
    if _is_unsure(chain, config):
        return "low_confidence"
    return _bad_length(chain, config)


def faults(chain: Chain, config: SelectConfig) -> list[str]:
    """Names and numbers for which `select.grounded` leaves a chain out, as written."""
    if not config.grounded:
        return []
    return [one.text for one in ungrounded(chain) if one.certain or config.grounded is True]


def supporting_share(chain: Chain) -> float:
    """Share of the gold supporting passages that the chain retrieved, in [0, 1]; 1 if none are named."""
    gold = set(chain.supporting_ids)
    found = gold & {passage.id for passage in chain.passages}
    return len(found) / len(gold) if gold else 1.0


def worst_logprob(chain: Chain) -> float | None:
    """Lowest mean token log-probability of a step; None if no step has one."""
    logprobs = [step.mean_logprob for step in chain.steps if step.mean_logprob is not None]
    return min(logprobs, default=None)


def _answer_matches(chain: Chain, config: SelectConfig) -> bool:
    if config.match == "f1":
        return chain.f1 >= config.min_f1
    scores = {"right": chain.right, "em": chain.em, "contained": chain.acc}
    return scores[config.match] == 1.0


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
