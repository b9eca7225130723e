"""The DeepSpeed engine of one rank: the student under ZeRO, and its optimizer step."""

from datetime import timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from steper_ray.training.deepspeed_config import deepspeed_config
from steper_ray.training.worker_spec import WorkerTask

if TYPE_CHECKING:
    from steper_ray.training.student import StudentLoss


def start_engine(task: WorkerTask, *, packed: bool) -> Any:
    """Load the base student and wrap it in a DeepSpeed engine; torch.distributed must be up.

    packed: whether the student will be given packed rows
    """
    import deepspeed
    import torch
    from deepspeed.checkpoint.constants import (
        UNIVERSAL_CHECKPOINT_INFO,
        UNIVERSAL_CHECKPOINT_VERSION_KEY,
        UNIVERSAL_CHECKPOINT_VERSION_VALUE,
    )

    from steper_ray.training.student import load_student

    train = task.train
    config = deepspeed_config(
        zero_stage=train.zero_stage,
        bf16=task.bf16,
        gpu=train.use_gpu,
        lr=train.peak_lr,
        weight_decay=train.weight_decay,
        max_grad_norm=train.max_grad_norm,
        offload_optimizer=train.offload_optimizer,
        offload_weights=train.offload_weights,
        offload_dir=train.offload_dir,
        overrides=train.deepspeed,
    )
    student: StudentLoss = load_student(
        train.model,
        dtype=torch.bfloat16 if task.bf16 else torch.float32,
        gradient_checkpointing=train.gradient_checkpointing,
        packed=packed,
        lora=train.lora,
        liger=train.use_gpu and find_spec("liger_kernel") is not None,
        zero3=config if train.zero_stage == 3 else None,
        hub=task.hub,
        revision=train.revision,
    )
    # DeepSpeed writes it into ZeRO-1 and -2 checkpoints, which only then can be made universal.
    version = {UNIVERSAL_CHECKPOINT_VERSION_KEY: UNIVERSAL_CHECKPOINT_VERSION_VALUE}
    setattr(student, UNIVERSAL_CHECKPOINT_INFO, version)
    engine, *_ = deepspeed.initialize(
        model=student, model_parameters=_groups(student, train.weight_decay), config=config
    )
    if student.loss_head is not None and train.offload_weights != "nvme":
        student.loss_head.stay_gathered()
    _set_timeouts(train.timeout_minutes)
    return engine


def _set_timeouts(minutes: float) -> None:
    """Let every process group wait so long; those that DeepSpeed makes have torch's defaults."""
    from torch.distributed import distributed_c10d

    for group in distributed_c10d._world.pg_map:
        distributed_c10d._set_pg_timeout(timedelta(minutes=minutes), group)


def _groups(student: "StudentLoss", weight_decay: float) -> list[Any]:
    """What is trained: with weight decay in two groups, matrices with it, norms and biases without."""
    trained = [p for p in student.parameters() if p.requires_grad]
    if not weight_decay:
        return trained
    # under ZeRO-3 a weight is flat; `ds_shape` is the shape that it has when it is whole
    matrices = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) > 1]
    others = [p for p in trained if len(getattr(p, "ds_shape", p.shape)) < 2]
    groups = ((matrices, weight_decay), (others, 0.0))
    return [{"params": part, "weight_decay": decay} for part, decay in groups if part]


def update_weights(engine: Any, *, keeps_norm: bool) -> float:
    """Clip the gradient and move the weights; returns the norm that the gradient had.

    keeps_norm: whether the engine knows that norm; DeepSpeed's stage 0 in fp32 clips without keeping it
    """
    import torch

    if not keeps_norm:
        gradients = [p.grad for p in engine.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        engine.step()
        return norm
    engine.step()
    return float(engine.get_global_grad_norm())
