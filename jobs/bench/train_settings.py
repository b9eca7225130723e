"""In what `train.py` measures on a CPU and on a GPU."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What differs between the table of a CPU and that of a GPU."""

    device: str
    bf16: bool
    """Weights and activations in bf16, otherwise fp32."""
    layers: int
    hidden: int
    heads: int
    key_value_heads: int
    intermediate: int
    chains: int
    """Chains, of `STEPS` examples each, in one optimizer step."""
    together: int
    """Chains that go through the model at a time; divides `chains`."""
    gradient_checkpointing: bool
    steps: int
    """Optimizer steps of our own contenders; the first is not timed."""
    loop_steps: int
    """Optimizer steps of the worker loop; the first two are not timed."""
    trl_steps: int
    product: int
    """Rows and columns of the plain matrix product that the speed is compared with."""
    tolerance: float
    """Most that the losses of two contenders may differ, relative. In bf16, sound ones of the GPU's model
    were seen to differ by 7e-4, and attention over the wrong tokens to change them by 3e-2."""
    rounds: int = 0
    """How often the quick contenders are run beforehand, in turn; of all their runs the best counts."""
    targets: Mapping[str, tuple[float, str]] = field(default_factory=dict)

    @property
    def gpu(self) -> bool:
        """Whether it is a GPU's."""
        return self.device != "cpu"


CPU: Final = Setting(
    device="cpu",
    bf16=False,
    layers=4,
    hidden=256,
    heads=4,
    key_value_heads=4,
    intermediate=704,
    chains=2,
    together=1,
    gradient_checkpointing=False,
    steps=6,
    loop_steps=10,
    trl_steps=3,
    product=1024,
    tolerance=1e-4,
    rounds=3,
    targets={
        "vs_trl": (10.0, "at least"),
        "vs_trl_packed": (5.0, "at least"),
        "memory_vs_trl": (0.3, "at most"),
        "vs_separate": (2.0, "at least"),
        "ray_efficiency": (0.95, "at least"),
    },
)

# The shape of TinyLlama (arXiv 2401.02385): 1,100,048,384 parameters. No aims are set for a GPU: where
# arithmetic is all that counts, the tokens allow 2.6 times the speed of separate examples.
GPU: Final = Setting(
    device="cuda:0",
    bf16=True,
    layers=22,
    hidden=2048,
    heads=32,
    key_value_heads=4,
    intermediate=5632,
    chains=16,
    together=4,
    gradient_checkpointing=True,
    steps=8,
    loop_steps=8,
    trl_steps=4,
    product=8192,
    tolerance=5e-3,
)
