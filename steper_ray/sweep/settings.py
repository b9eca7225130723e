"""The sweep section: which settings of the training are tried, how they are proposed and judged."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from steper_ray.run.section import Section

Number = int | float


Metric = Literal["loss", "em", "f1"]


class Parameter(Section):
    """The values of one key; exactly one of the three."""

    choice: tuple[Any, ...] | None = None
    """These values."""
    range: tuple[Number, Number] | None = None
    """Between two numbers, both alike; whole numbers where the key takes no others."""
    log: tuple[Number, Number] | None = None
    """The same, alike on a logarithmic scale."""

    @model_validator(mode="after")
    def _check(self) -> "Parameter":
        given = [name for name in Parameter.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of choice, range and log, not {named}")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice is empty; give at least one value")
            if any(value in self.choice[:place] for place, value in enumerate(self.choice)):
                raise ValueError("choice has a value twice")
            return self
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"the range from {low:g} to {high:g} is empty; put the smaller first")
        if self.log is not None and low <= 0:
            raise ValueError("log takes numbers above 0 only")
        return self

    @property
    def bounds(self) -> tuple[Number, Number]:
        """Of a range."""
        bounds = self.range or self.log
        assert bounds is not None
        return bounds


class SweepConfig(Section):
    """Which settings of the train section are tried."""

    parameters: dict[str, Parameter] = Field(default_factory=dict)
    """Key of the train section → its values, as `{choice: […]}`, `{range: [from, to]}` or
    `{log: [from, to]}`. `sigma_init` is all three abilities, `sigma_init.exp` one, `lora.rank` a key
    of a section within."""
    search: Literal["grid", "random", "optuna"] = "random"
    """Every combination, drawn at random, or proposed from the trials before (TPE, an extra to install)."""
    trials: PositiveInt = 8
    """Trials of `random` and `optuna`; a grid has as many as it has combinations."""
    metric: Metric = "loss"
    """What makes a trial the best: its validation loss, ⅓ Σ L_j without σ, or its student's exact match or
    F1 on `questions.dev` in the reasoning loop."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` stops trials early whose validation loss is not among the best at that point."""
    asha_grace: PositiveInt = 1
    """Validations before a trial may be stopped: ASHA's first rung."""
    asha_factor: int = Field(default=3, ge=2)
    """One of so many goes on at each rung, and the next is so many times as far."""
    concurrent: PositiveInt | None = None
    """Most trials at a time; null takes as many as the cluster has room for."""
    retries: NonNegativeInt = 1
    """Times a trial whose process died goes on from its last checkpoint, beside `train.max_failures`."""
    retry_failed: bool = False
    """Where a sweep is taken up: try the trials again that ended with an error."""

    @model_validator(mode="after")
    def _check(self) -> "SweepConfig":
        if self.scheduler == "asha" and self.metric != "loss":
            raise ValueError(
                f"scheduler asha compares trials while they train, but {self.metric} is known only at the "
                "end; take metric: loss, or scheduler: none"
            )
        if self.search == "grid":
            for name, parameter in self.parameters.items():
                if parameter.choice is None:
                    raise ValueError(
                        f"search grid needs a choice for {name}, not a range; list its values, or take "
                        "search: random"
                    )
        return self
