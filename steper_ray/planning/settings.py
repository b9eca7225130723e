"""The `plan` section: a plan that is computed from configurations of models, and what it assumes."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from steper_ray.run.section import LocalPath, Section

GpuName = Literal["A100", "H100", "H200", "B200", "L40S", "MI300X"]


Share = Annotated[float, Field(gt=0, le=1)]


class PlanConfig(Section):
    """What `steper plan --no-sample` computes with. The shares and sizes are assumptions, not measured."""

    computed: bool = False
    """Compute the plan from the models' configurations (`steper plan --no-sample`); asks no teacher, and
    needs no weights, no GPU and no Ray."""
    teacher_config: LocalPath | None = None
    """The teacher's `config.json`, or a folder with it; null takes that of `build.teacher`."""
    student_config: LocalPath | None = None
    """The base student's; null takes that of `train.model`."""
    questions: PositiveInt | None = None
    """Questions to compute with where `questions.train` is not on this machine; null takes 1,000 there."""
    gpu: GpuName = "H100"
    """GPU whose memory, arithmetic and bandwidth are taken, as its maker states them (SXM, 80 GB)."""
    gpu_memory_gb: PositiveFloat | None = None
    """Memory of a GPU, in GB of 10^9 bytes; null takes that of `gpu`."""
    gpu_tflops: PositiveFloat | None = None
    """Dense bf16 arithmetic of a GPU at its peak, in 10^12 FLOP a second; null takes that of `gpu`."""
    gpu_gb_per_s: PositiveFloat | None = None
    """Memory bandwidth of a GPU, in GB a second; null takes that of `gpu`."""
    overhead_gb: NonNegativeFloat = 3.0
    """GB that an engine keeps on each GPU beside weights, keys and values: activations, graphs, CUDA and
    communication."""
    mfu: Share = 0.4
    """Share of the peak that reading prompts and training reach."""
    bandwidth_share: Share = 0.6
    """Share of the bandwidth that writing tokens reaches."""
    passage_tokens: PositiveInt = 150
    """Tokens of a passage; those of HotpotQA have 600 characters."""
    question_tokens: PositiveInt = 30
    """Tokens of a question; those of HotpotQA have 107 characters."""
    step_tokens: PositiveInt = 30
    """Tokens that are written at a step: a sentence."""
