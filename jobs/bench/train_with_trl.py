"""TRL's SFTTrainer as a contender of `train.py`."""

import statistics
import tempfile
from importlib.util import find_spec
from typing import Any

from train_chains import VOCABULARY, make_chains, separate_tokens, tree_tokens
from train_settings import Setting
from train_workload import (
    LR,
    liger_obstacle,
    make_model,
    now,
    peak_memory,
    utilisation,
)

from steper_ray.training.tokenization import TokenExample


def run_trl(
    setting: Setting, *, batch: int, packing: bool = False, compact: bool = False
) -> dict[str, Any]:
    """TRL's SFTTrainer on the flattened examples, loss on completions only.

    batch:   examples (rows, if packing) that go through the model together
    packing: a row holds as many tokens as go through the model together when we pack chains
    compact: compute logits of targets alone on a CPU too; TRL does where Triton is
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    if compact:
        import trl.trainer.utils

        # Its head asks this only for which positions to score; the kernel is chosen elsewhere.
        trl.trainer.utils._use_triton = lambda _: True
    chains = make_chains("ircot", setting.chains)
    examples = [example for chain in chains for example in chain]
    lengths = sorted((len(example.ids) for example in examples), reverse=True)
    row = tree_tokens(chains[: setting.together]) if packing else lengths[0]
    rows_a_step = count_bins(lengths, row) if packing else len(examples)
    model = make_model(setting)
    flash = flash_obstacle(setting)
    if packing and flash is None:
        model.set_attn_implementation("flash_attention_2")
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=model,
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
                max_length=row,
                use_liger_kernel=liger_obstacle(setting) is None,
                gradient_checkpointing=setting.gradient_checkpointing,
                save_strategy="no",
                report_to=[],
                disable_tqdm=True,
                logging_strategy="no",
            ),
            train_dataset=Dataset.from_list(list(map(completion_row, examples))),
            processing_class=number_tokenizer(),
            callbacks=[step_timer(setting, seconds)],
        )
        losses = [] if packing else example_losses(setting, trainer)
        rows = len(trainer.train_dataset)
        assert rows == rows_a_step, f"{rows} rows, not {rows_a_step}"
        trainer.train()
    median = statistics.median(seconds[1:])
    return {
        "seconds": median,
        "losses": losses,
        "tree_token_ratio": separate_tokens(chains) / tree_tokens(chains),
        "peak": peak_memory(setting),
        "with": {
            "tokens a row": f"at most {row:,}",
            "padding-free": _on("is for packing" if not trainer.padding_free else None),
            "flash attention": _on(flash if packing else "is for packing"),
            "Liger": _on(liger_obstacle(setting)),
            "logits": "of targets" if setting.gpu or compact else "of all tokens (no Triton)",
        },
    } | utilisation(setting, [[example] for example in examples], median)


def flash_obstacle(setting: Setting) -> str | None:
    """Why flash attention, whose kernels take rows of several examples, is off; None if it is on."""
    if not setting.gpu:
        return "needs a GPU"
    return None if find_spec("flash_attn") else "not installed"


def _on(obstacle: str | None) -> str:
    return "on" if obstacle is None else f"off ({obstacle})"


def completion_row(example: TokenExample) -> dict[str, list[int]]:
    """An example as TRL takes it, its target marked as the completion."""
    prompt_tokens = len(example.ids) - example.target_tokens
    return {
        "input_ids": example.ids.tolist(),
        "completion_mask": [0] * prompt_tokens + [1] * example.target_tokens,
    }


def number_tokenizer() -> Any:
    """A tokenizer that SFTTrainer demands, though its data are token ids already: a word a token."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        eos_token="w1",
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
