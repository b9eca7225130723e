"""TRL's SFTTrainer as a contender of `train.py`."""

import statistics
import tempfile
from typing import Any

import numpy as np
from train_settings import Setting
from train_workload import (
    LR,
    TARGET_TOKENS,
    VOCABULARY,
    make_chains,
    make_model,
    now,
    peak_memory,
    split,
    utilisation,
)


def run_trl(setting: Setting, packing: bool, batch: int) -> dict[str, Any]:
    """TRL's SFTTrainer on the flattened examples, loss on completions only.

    batch: examples (rows, if packing) that go through the model together
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    units = split(make_chains(setting))
    examples = [ids for (ids,) in units]
    longest = max(len(ids) for ids in examples)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        # A packed row holds as many examples as fit the longest.
        lengths = sorted((len(ids) for ids in examples), reverse=True)
        rows_a_step = len(examples) if not packing else count_bins(lengths, longest)
        trainer = SFTTrainer(
            model=make_model(setting),
            args=SFTConfig(
                output_dir=folder,
                use_cpu=not setting.gpu,
                bf16=setting.bf16,
                per_device_train_batch_size=batch,
                gradient_accumulation_steps=rows_a_step // batch,
                max_steps=setting.trl_steps,
                optim="adamw_torch_fused",
                max_grad_norm=0.0,
                learning_rate=LR,
                lr_scheduler_type="constant",
                completion_only_loss=True,
                packing=packing,
                max_length=longest,
                gradient_checkpointing=setting.gradient_checkpointing,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=Dataset.from_list([completion_row(ids) for ids in examples]),
            processing_class=number_tokenizer(),
            callbacks=[step_timer(setting, seconds)],
        )
        losses = [] if packing else example_losses(setting, trainer)
        trainer.train()
    return {
        "seconds": statistics.median(seconds[1:]),
        "losses": losses,
        "peak": peak_memory(setting),
    } | utilisation(setting, trainer.model, units, seconds)


def completion_row(ids: np.ndarray) -> dict[str, list[int]]:
    """An example as TRL takes it, its target marked as the completion."""
    return {
        "input_ids": ids.tolist(),
        "completion_mask": [0] * (len(ids) - TARGET_TOKENS) + [1] * TARGET_TOKENS,
    }


def number_tokenizer() -> Any:
    """A tokenizer that SFTTrainer demands, though its data are token ids already: a word a token."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        eos_token="w2",
        pad_token="w0",
    )


def step_timer(setting: Setting, seconds: list[float]) -> Any:
    """A callback that adds the seconds of each optimizer step to `seconds`."""
    from transformers import TrainerCallback

    class StepTimer(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            seconds.append(-now(setting))

        def on_step_end(self, *_: Any, **__: Any) -> None:
            seconds[-1] += now(setting)

    return StepTimer()


def example_losses(setting: Setting, trainer: Any) -> list[float]:
    """The loss of each example under the trainer's model as it is."""
    import torch

    losses = []
    with torch.no_grad():
        for row in trainer.train_dataset:
            inputs = {
                name: value.to(setting.device)
                for name, value in trainer.data_collator([row]).items()
            }
            losses.append(trainer.compute_loss(trainer.model, inputs).item())
    return losses


def count_bins(lengths: list[int], size: int) -> int:
    """Rows that best-fit-decreasing packing needs, which is TRL's own strategy."""
    free: list[int] = []
    for length in lengths:
        fitting = [room for room in free if room >= length]
        if fitting:
            free.remove(best := min(fitting))
            free.append(best - length)
        else:
            free.append(size - length)
    return len(free)
