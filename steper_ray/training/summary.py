"""The figures of a finished training, and of the data that it learned from."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingDataCounts:
    """Chains, examples and tokens that a training learns from."""

    chains: int
    """Chains trained on."""
    examples: dict[str, int]
    """Training examples of each ability."""
    input_tokens: int
    """Prompt and target tokens of all examples, every epoch counted."""
    supervised_tokens: int
    """Target tokens among them."""
    dropped_passages: int
    """Passages left out of training prompts that would have outgrown the context."""
    separate_because: str | None
    """Why the examples of a chain did not share their prefixes; None if they did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSummary(TrainingDataCounts):
    """The figures of a finished training."""

    steps: int
    """Of the exported student."""
    planned_steps: int
    """More than `steps` where an earlier student was the best, or training stopped early."""
    seconds: float
    """Wall clock, start of the workers included."""
    loss: float
    """L of the last global batch, in nats."""
    ability_losses: dict[str, float | None]
    """L_j of the last global batch; None for an ability without an example in it."""
    validation_loss: float | None
    """Mean of L_j of the exported student over the held-out chains; None if no chain was held out."""
    sigma: dict[str, float]
    """σ of each ability at the end."""
    clipped_share: float | None = None
    """Share of the optimizer steps whose gradient was clipped; None if it was not counted."""
    base_commit: str = ""
    """Commit of a base student from the Hub; empty for a folder."""
