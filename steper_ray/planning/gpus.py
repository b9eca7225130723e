"""GPUs as their makers state them, for plans that are computed."""

from dataclasses import dataclass
from typing import Final

from steper_ray.planning.settings import GpuName, PlanConfig
from steper_ray.training.flops import PEAK_TFLOPS

MEMORY: Final[dict[GpuName, tuple[float, float]]] = {
    "A100": (80, 2039),
    "H100": (80, 3350),
    "H200": (141, 4800),
    "B200": (180, 8000),
    "L40S": (48, 864),
    "MI300X": (192, 5300),
}
"""GPU → memory in GB, and its bandwidth in GB a second."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU's memory and speed."""

    name: str
    memory_bytes: float
    flops: float
    """Dense bf16 FLOP a second at its peak."""
    bytes_per_second: float


def chosen_gpu(plan: PlanConfig) -> Gpu:
    """The GPU that a plan computes with."""
    memory, bandwidth = MEMORY[plan.gpu]
    return Gpu(
        plan.gpu,
        (plan.gpu_memory_gb or memory) * 1e9,
        (plan.gpu_tflops or PEAK_TFLOPS[plan.gpu]) * 1e12,
        (plan.gpu_gb_per_s or bandwidth) * 1e9,
    )
