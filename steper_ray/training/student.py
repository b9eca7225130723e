"""The student model: loading it under ZeRO, its loss on a micro-batch, and writing it out whole.

Logits exist only at supervised positions. Prompts have hundreds to thousands of tokens and targets
some thirty, so the head and its memory shrink by more than ten times. The model's own forward pass
is used, so whatever an architecture does around its head stays as it is; only the head's input is
reduced.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.integrations.deepspeed import set_hf_deepspeed_config

from steper_ray.models import SETTINGS_FILE
from steper_ray.training.data import TokenExample
from steper_ray.training.objective import example_nll


class StudentLoss(nn.Module):
    """A causal language model whose forward pass gives the loss of a micro-batch.

    DeepSpeed wraps this module, so every sub-module runs inside the engine's forward pass.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self._supervised: Tensor | None = None
        model.get_output_embeddings().register_forward_pre_hook(self._keep_supervised)

    def forward(
        self,
        ids_BT: Tensor,
        supervised_BT: Tensor,
        wanted_P: Tensor,
        example_P: Tensor,
        weight_B: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The weighted loss, and the token-mean NLL of each example in nats.

        ids_BT:        (examples, tokens) int64, padded on the right. Under a causal mask no real
                       token sees the padding, so nothing is masked and attention is fastest
        supervised_BT: (examples, tokens) bool, positions whose next token is part of the target
        wanted_P:      (supervised,) int64, those next tokens, row by row
        example_P:     (supervised,) int64, their rows
        weight_B:      (examples,) fp32, what each example's NLL counts in the loss
        Returns a scalar with gradient and (examples,) fp32 without.
        """
        self._supervised = supervised_BT
        try:
            logits_PV = self.model(input_ids=ids_BT, use_cache=False).logits
        finally:
            self._supervised = None
        nll_B = example_nll(logits_PV, wanted_P, example_P, len(ids_BT))
        return (nll_B * weight_B).sum(), nll_B.detach()

    def _keep_supervised(self, _head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Hidden states (B, T, H) → (P, H), just before the head."""
        if self._supervised is None:
            return inputs
        return (inputs[0][self._supervised], *inputs[1:])


def collate(
    examples: Sequence[TokenExample], weights: Sequence[float], pad: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The arguments of `StudentLoss.forward` for some examples.

    weights: one per example; pad: any token id
    """
    length = max(len(example.ids) for example in examples)
    ids_BT = torch.full((len(examples), length), pad, dtype=torch.int64)
    supervised_BT = torch.zeros((len(examples), length), dtype=torch.bool)
    for row, example in enumerate(examples):
        tokens = len(example.ids)
        ids_BT[row, :tokens] = torch.from_numpy(example.ids)
        supervised_BT[row, tokens - example.target_tokens - 1 : tokens - 1] = True
    wanted_P = ids_BT.roll(-1, dims=1)[supervised_BT]
    example_P = supervised_BT.nonzero()[:, 0]
    weight_B = torch.tensor(weights, dtype=torch.float32)
    ids_BT, supervised_BT = ids_BT.to(device), supervised_BT.to(device)
    return ids_BT, supervised_BT, wanted_P.to(device), example_P.to(device), weight_B.to(device)


class ShardedLoading:
    """What transformers consults while loading: each weight is sharded as soon as it is read.

    Does what `HfDeepSpeedConfig` does, which would need the accelerate package for nothing else.
    transformers keeps a weak reference only, so this must live until the model is loaded.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        set_hf_deepspeed_config(self)

    def is_zero3(self) -> bool:
        """Whether weights are sharded."""
        return True


def load_student(
    name: str,
    *,
    dtype: torch.dtype,
    gradient_checkpointing: bool,
    zero3: dict[str, Any] | None = None,
) -> StudentLoss:
    """The base student, ready for training.

    name:  folder or hub name
    dtype: the type to compute in
    zero3: the DeepSpeed configuration if weights are to be sharded (torch.distributed must be up)
    """
    sharded = ShardedLoading(zero3) if zero3 is not None else None
    model: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    del sharded
    if gradient_checkpointing:
        model.gradient_checkpointing_enable()
    model.train()
    return StudentLoss(model)


def gather_weights(model: Any, *, keep: bool) -> dict[str, Tensor]:
    """Whole weights by name, on the CPU; tied ones once. Every rank must call it.

    keep: whether this rank wants them; the others only help and get an empty dictionary
    """
    import deepspeed

    whole: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        sharded = [parameter] if hasattr(parameter, "ds_id") else []
        with deepspeed.zero.GatheredParameters(sharded):
            if keep:
                whole[name] = parameter.detach().to("cpu", copy=True)
    return whole


def export_student(
    weights: dict[str, Tensor],
    generation: GenerationConfig,
    base: str,
    folder: Path,
    settings: dict[str, Any],
) -> None:
    """Write the student as a Hugging Face folder, whole or not at all.

    weights:    from `gather_weights`
    generation: the trained model's generation config
    base:       folder or hub name of the base student: its config, tokenizer and dtype are kept
    settings:   how the student is to be asked, written beside it for evaluation and serving
    """
    config = AutoConfig.from_pretrained(base)
    dtype = config.dtype or torch.float32
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    whole = {name: weight.to(dtype) for name, weight in weights.items()}
    found = model.load_state_dict(whole, strict=False, assign=True)
    assert not found.unexpected_keys, found
    model.tie_weights()
    assert not any(parameter.is_meta for parameter in model.parameters()), found
    model.generation_config = generation

    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    AutoTokenizer.from_pretrained(base).save_pretrained(partial)
    text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
    (partial / SETTINGS_FILE).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
