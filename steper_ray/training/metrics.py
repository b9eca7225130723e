"""The record of a training run: a JSON line a step, and the same for TensorBoard.

Lines are flushed at once, so the file can be followed while training goes on.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

METRICS_FILE: Final = "metrics.jsonl"


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One line of the metrics file."""

    step: int
    """Optimizer step, counted from 1."""
    steps: int
    epoch: int
    """Counted from 1."""
    loss: float
    L_init: float | None
    L_exp: float | None
    L_agg: float | None
    accuracy_init: float | None
    """Share of the target tokens that were the likeliest, teacher-forced; mean over the examples."""
    accuracy_exp: float | None
    accuracy_agg: float | None
    sigma_init: float
    """σ after this step's update."""
    sigma_exp: float
    sigma_agg: float
    lr: float
    grad_norm: float
    """Before clipping, over the model's parameters only."""
    tokens_per_second: float
    """Prompt and target tokens of the global batch, without padding."""
    examples: int
    seconds: float
    """Of this step."""

    def as_dict(self) -> dict[str, Any]:
        """The names and values, in order."""
        return {name: getattr(self, name) for name in self.__slots__}


class MetricsWriter:
    """Rank 0's record of the run: a JSON line a step, and TensorBoard.

    Lines after the step that training goes on from are removed first: they will be written again.
    """

    def __init__(self, folder: Path, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder.mkdir(parents=True, exist_ok=True)
        file = folder / METRICS_FILE
        before = file.read_text(encoding="utf-8").splitlines() if step and file.exists() else []
        kept = [line for line in before if json.loads(line)["step"] <= step]
        file.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
        self._lines = file.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def write(self, metrics: StepMetrics) -> None:
        """Record one step."""
        values = metrics.as_dict()
        self._lines.write(json.dumps(values) + "\n")
        self._lines.flush()
        for name, value in values.items():
            if value is not None and name not in ("step", "steps"):
                self._board.add_scalar(f"train/{name}", value, metrics.step)

    def close(self) -> None:
        """Write what is left."""
        self._lines.close()
        self._board.close()
