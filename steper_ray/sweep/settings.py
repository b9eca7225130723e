"""The `sweep` section: settings of the training to try, and how trials are proposed and scored."""

from typing import Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from steper_ray.engines.settings import EngineConfig
from steper_ray.run.section import Section

Number = int | float


Metric = Literal["loss", "em", "f1"]


class Parameter(Section):
    """The values of one key, as exactly one of `choice`, `range` and `log`."""

    choice: tuple[Any, ...] | None = None
    """These values."""
    range: tuple[Number, Number] | None = None
    """Smallest and largest value, uniform between them; whole numbers where the key takes no others."""
    log: tuple[Number, Number] | None = None
    """Smallest and largest value, uniform on a logarithmic scale."""

    @model_validator(mode="after")
    def _check(self) -> "Parameter":
        given = [name for name in Parameter.model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            named = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of choice, range and log, not {named}")
        if self.choice is not None:
            if not self.choice:
                raise ValueError("choice is empty; give at least one value")
            if any(value in self.choice[:index] for index, value in enumerate(self.choice)):
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
        """Smallest and largest value of a range."""
        bounds = self.range or self.log
        assert bounds is not None
        return bounds


class SweepConfig(Section):
    """Which settings of the train section are tried."""

    parameters: dict[str, Parameter] = Field(default_factory=dict)
    """Key of the train section → its values, as `{choice: […]}`, `{range: [from, to]}` or
    `{log: [from, to]}`. `sigma_init` sets all abilities, `sigma_init.exp` one of them; `lora.rank` is a key
    of a nested section."""
    search: Literal["grid", "random", "optuna"] = "random"
    """Every combination, random points, or points proposed from earlier ones (TPE, an extra to install)."""
    trials: PositiveInt = 8
    """Trials of `random` and `optuna`; a grid has as many as it has combinations. With more of them a sweep
    goes on where it ended."""
    metric: Metric = "loss"
    """Score that ranks trials: validation loss (the mean of L_j, without σ), or exact match or F1 of the
    student on `questions.dev` in the reasoning loop."""
    scheduler: Literal["none", "asha"] = "none"
    """`asha` stops trials early whose validation loss is not among the best at a rung."""
    asha_grace: PositiveInt = 1
    """Validations before a trial may be stopped: ASHA's first rung. If trials differ in `chains_per_batch`,
    those of the trial with the largest batches."""
    asha_factor: int = Field(default=3, ge=2)
    """At each rung one trial of this many continues; the next rung is this many times as far."""
    engine: EngineConfig | None = None
    """The engines that ask students (`em`, `f1`), where they differ from `eval.engine`, with the keys that
    do."""
    concurrent: PositiveInt | None = None
    """Upper bound of trials at a time; null takes as many as the cluster has room for."""
    max_restarts: NonNegativeInt = 1
    """Times a trial whose process died resumes from its last checkpoint, beside `train.max_restarts`."""
    retry_failed: bool = False
    """When a sweep resumes, run trials that ended with an error again."""

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
