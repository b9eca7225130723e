"""What a training worker is told and what it returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.reasoning.settings import ReasoningConfig
from steper_ray.training.metrics import StepMetrics

if TYPE_CHECKING:
    from steper_ray.training.settings import TrainConfig


CANDIDATES: Final = "candidates"


PLACEMENT_FILE: Final = "placement_group"
"""In a sweep: the id of the workers' placement group, for whoever ends the trial from outside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerTask:
    """Everything a worker needs to know."""

    train: "TrainConfig"
    stepwise_files: tuple[str, ...]
    training_dir: str
    seed: int
    reasoning: ReasoningConfig
    """How the student will be asked; written beside it as `steper.json`."""
    corpus_version: str
    """What the chains were retrieved from; written there too."""
    log: str
    """File for what the workers print."""
    base_model: Mapping[str, str] = field(default_factory=dict)
    """The base student by its content, from `model_identity`; written there too."""
    hub: HubConfig = DEFAULTS
    """How the base student is reached."""
    prepared: str | None = None
    """File with the prepared examples (`steper_ray.training.training_data`); null prepares them here."""
    report_validations: bool = False
    """Write a checkpoint and report to Ray Train after each validation: what a sweep looks at."""

    @property
    def bf16(self) -> bool:
        """Whether weights and activations are bf16."""
        precision = self.train.precision
        return precision == "bf16" or (precision == "auto" and self.train.use_gpu)


@dataclass(frozen=True, slots=True)
class WorkerOutcome:
    """What rank 0 hands back to the driver."""

    last: StepMetrics
    candidates: list[tuple[float, int]]
    """(validation loss, step) of the students in `candidates/`, best first; without validation the last
    step alone, and its training loss."""
    validated: bool
    chains: int
    """Chains trained on."""
    examples: dict[str, int]
    """Training examples of each ability."""
    input_tokens: int
    """Prompt and target tokens of all examples, every epoch counted."""
    supervised_tokens: int
    dropped_passages: int
    separate_because: str | None
    """Why the examples of a chain did not share their prefixes; None if they did."""


def candidate_dir(training_dir: str, step: int) -> Path:
    """Where the student of a step is written."""
    return Path(training_dir) / CANDIDATES / f"step-{step:06d}"
