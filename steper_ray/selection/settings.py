"""The `select` section: which chains become training data."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from steper_ray.run.section import Section


class SelectConfig(Section):
    """Which chains become training data."""

    match: Literal["right", "em", "f1", "contained"] = "right"
    """How the answer must match the best of the gold answers: `right` by the task (questions.task), which
    for `qa` is the same to a reader, in any script; by the scores that are reported, `em` is equal after
    HotpotQA's normalisation, `f1` has a token F1 of at least min_f1, `contained` has it inside on word
    boundaries."""
    min_f1: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Lower bound for the F1 of `match: f1`."""
    keep_forced: bool = True
    """Keep chains whose answer had to be forced at the last step."""
    keep_rationalized: bool = True
    """Keep chains for which the teacher was shown the gold answer."""
    keep_cut_off: bool = False
    """Keep chains with a step that `reasoning.max_step_tokens` cut off before its end; raise that limit
    rather than train on half sentences."""
    grounded: bool | Literal["certain"] = "certain"
    """Leave out chains with a name in a step of which a word is in none of its passages, the earlier steps
    and the question (see selection/grounding.py); true leaves out every name and number that is not there,
    false none, as for languages that capitalise more than names."""
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
    abilities: str = "steper"
    """Ability scheme: which ability each step of a chain teaches. `steper`: the first step `init`, the last
    `agg`, those between `exp`."""
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
            bound = getattr(self, high)
            if bound is not None and bound < getattr(self, low):
                raise ValueError(
                    f"{high} must be at least {low}, {getattr(self, low)}; got {bound}"
                )
        return self
