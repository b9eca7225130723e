"""The only rank of a training, in this process: DeepSpeed without Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from steper_ray.training.metrics import StepMetrics
from steper_ray.training.mix import read_mix
from steper_ray.training.mix_data import prepare_mix
from steper_ray.training.preparation import prepare
from steper_ray.training.rank import RankTraining
from steper_ray.training.tokenization import examples_digest
from steper_ray.training.worker_spec import WorkerTask

LR, SIGMA_LR = 2e-3, 0.1


def start(task: WorkerTask, resume: Path | None = None, **values: Any) -> RankTraining:
    """The only rank of a training whose settings differ in `values`."""
    import torch

    task = prepared(replace(task, train=task.train.model_copy(update=values)))
    device = torch.device("cuda:0" if task.train.use_gpu else "cpu")
    return RankTraining(task, 0, 1, device, resume)


def keep_4_bits_as_stored() -> None:
    """Has bitsandbytes compute from 4-bit matrices as they are stored, on every CPU.

    On CPUs with AVX512-BF16 a pass without gradients rearranges them for a kernel that reads only bf16.
    """
    import bitsandbytes

    bnb: Any = bitsandbytes  # says little of itself to type checkers
    bnb.nn.modules.has_avx512bf16 = lambda: False


def prepared(task: WorkerTask) -> WorkerTask:
    """The task with its training data, as it lies on disk now."""
    examples = examples_digest([Path(file) for file in task.stepwise_files], task.scheme)
    mix = "" if task.train.mix is None else read_mix(task.train.mix).digest
    task = replace(task, examples=examples, mix=mix)
    parent = Path(task.training_dir).parent / "prepared"
    folder = prepare(task, parent)
    return replace(task, prepared=str(folder), prepared_mix=str(prepare_mix(task, parent) or ""))


def learned(metrics: StepMetrics) -> dict[str, Any]:
    """What does not depend on the machine."""
    row = metrics.as_row()
    measured = {"seconds", "peak_memory_gib", "mfu", *(k for k in row if k.endswith("_per_second"))}
    return {name: value for name, value in row.items() if name not in measured}


def gather_and_save(training: RankTraining, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    from steper_ray.training.student import gather_weights

    model = AutoModelForCausalLM.from_pretrained(training.task.train.model)
    model.load_state_dict(gather_weights(training.engine.module.model, keep=True), strict=False)
    model.save_pretrained(folder)
