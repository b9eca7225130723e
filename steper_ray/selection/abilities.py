"""The ability that each step of a chain teaches (StepER, section 3.2)."""

from steper_ray.schema import Ability


def ability_of(step: int, steps: int) -> Ability:
    """The ability that step `step` (from 1) of a chain of `steps` teaches."""
    if step == steps:
        return "agg"
    return "init" if step == 1 else "exp"
