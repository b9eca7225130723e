"""What a process of a rank is forked with: to import it takes longer than most of the trainings here."""

import importlib
import os
import sys

os.environ["DS_ACCELERATOR"] = "cpu"
sys.modules["mlflow"] = None  # type: ignore[assignment]  # as `prepare_process` does
for name in (
    "deepspeed.ops",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen3.modeling_qwen3",
    "steper_ray.training.rank",
):
    importlib.import_module(name)
del sys.modules["mlflow"]
