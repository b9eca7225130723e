"""The `toy` section: the invented world."""

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from steper_ray.run.section import Section


class ToyConfig(Section):
    """The invented world."""

    seed: NonNegativeInt = Field(default=0, lt=1_000_000)
    """Another seed is another world of the same kind."""
    scale: PositiveFloat = Field(default=1.0, le=1.0)
    """Number of entities relative to the full world of 5,300."""
    train: PositiveInt = 2400
    """Questions of the train split."""
    dev: PositiveInt = 300
    """Questions of the dev split."""
    test: PositiveInt = 600
    """Questions of the test split."""
