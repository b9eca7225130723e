"""The student model: loading it under ZeRO, its loss on a micro-batch, and writing it out whole.

Logits exist only at supervised positions, and only some at a time. Prompts have hundreds to thousands
of tokens and targets some thirty, so the head and its memory shrink by more than ten times.
"""

import json
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.integrations.deepspeed import set_hf_deepspeed_config

from steper_ray.files import new_folder
from steper_ray.models.hub import at_revision, explained
from steper_ray.models.loading import load_model_config, load_tokenizer
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.models.student_settings import SETTINGS_FILE
from steper_ray.training.attention import ATTENTION
from steper_ray.training.lora import (
    ADAPTER_FOLDER,
    Adapter,
    add_adapters,
    quantization,
    write_adapter,
)
from steper_ray.training.loss_head import LossHead
from steper_ray.training.objective import example_means
from steper_ray.training.recomputation import recompute
from steper_ray.training.settings import LoraConfig, Recompute, recompute_named
from steper_ray.training.tensors import Batch


class StudentLoss(nn.Module):
    """A causal language model whose forward pass gives the loss of a micro-batch.

    DeepSpeed wraps this module, so every sub-module runs inside the engine's forward pass.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        text = model.config.get_text_config()
        if getattr(text, "attn_logit_softcapping", None):  # torch's own attention leaves it out
            model.set_attn_implementation("eager")
        self.own_attention: str = model.config._attn_implementation
        """The attention that the model takes by itself."""
        head = model.get_output_embeddings()
        self.loss_head: LossHead | None = None
        if isinstance(head, nn.Linear):
            self.loss_head = LossHead(head, text)
        self.own_logits = self.loss_head is None
        """Whether the loss comes from the model's own logits: right for any head, with more memory."""

    def forward(self, batch: Batch, *, plain: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted loss with gradient; without: token-mean NLL of each example in nats, (E,) fp32,
        and the share of its tokens that were the likeliest, (E,) fp32.

        plain: what the model itself makes of the tokens, without anything of ours; slow
        """
        if plain:
            inputs = {"input_ids": batch.ids_BT, "use_cache": False}
            loss, nll_P, right_P = self._loss_of_logits(batch, inputs)
        elif self.own_logits:
            loss, nll_P, right_P = self._loss_of_kept_logits(batch)
        else:
            loss, nll_P, right_P = self._loss_of_head(batch)
        nll_E, right_E = (
            example_means(value_P, batch.example_P, batch.examples)
            for value_P in (nll_P, right_P.float())
        )
        return loss, nll_E, right_E

    def _loss_of_head(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """See `linear_cross_entropy`; the head is applied here, a chunk of tokens at a time."""
        assert self.loss_head is not None
        hidden_BTH = self.model.base_model(**_inputs(batch)).last_hidden_state
        hidden_PH = hidden_BTH.flatten(0, 1)[batch.at_P]
        loss, nll_P, right_P = self.loss_head(hidden_PH, batch.target_P, batch.weight_P)
        return loss, nll_P, right_P

    def _loss_of_kept_logits(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """The same from the model's own logits, of the columns where any row is supervised."""
        inputs = _inputs(batch)
        if "logits_to_keep" not in signature(self.model.forward).parameters:
            return self._loss_of_logits(batch, inputs)
        columns = (batch.at_P % batch.ids_BT.shape[1]).unique()
        return self._loss_of_logits(batch, {**inputs, "logits_to_keep": columns}, columns)

    def _loss_of_logits(
        self, batch: Batch, inputs: dict[str, Any], columns_K: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """columns_K: (K,) int64, ascending: what the logits are of; None: of every column"""
        row_P, column_P = batch.at_P // batch.ids_BT.shape[1], batch.at_P % batch.ids_BT.shape[1]
        if columns_K is not None:
            column_P = torch.searchsorted(columns_K, column_P)
        logits_PV = self.model(**inputs).logits[row_P, column_P].float()
        nll_P = cross_entropy(logits_PV, batch.target_P, reduction="none")
        right_P = logits_PV.detach().argmax(-1) == batch.target_P
        return (nll_P * batch.weight_P).sum(), nll_P.detach(), right_P


def _inputs(batch: Batch) -> dict[str, Any]:
    """Arguments of a model's forward pass; not every model takes positions."""
    inputs: dict[str, Any] = {"input_ids": batch.ids_BT, "use_cache": False}
    if batch.position_BT is not None:
        inputs["position_ids"] = batch.position_BT
    if batch.packed is not None:
        inputs["packed"] = batch.packed
    return inputs


class ShardedLoading:
    """What transformers consults while loading: each weight is sharded as soon as it is read.

    Does what `HfDeepSpeedConfig` does, which would need the accelerate package for nothing else.
    transformers keeps a weak reference only, so this must live until the model is loaded.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        set_hf_deepspeed_config(self)

    def is_zero3(self) -> bool:
        """Whether weights are sharded; transformers asks."""
        return True


def load_student(
    name: str,
    *,
    dtype: torch.dtype,
    gradient_checkpointing: Recompute | bool,
    packed: bool,
    lora: LoraConfig | None = None,
    liger: bool = False,
    zero3: dict[str, Any] | None = None,
    hub: HubConfig = DEFAULTS,
    revision: str | None = None,
) -> StudentLoss:
    """The base student with its loss, ready for training.

    name:   folder or hub name; revision: of a model on the Hub
    dtype:  the type to compute in
    packed: whether the student will be given packed rows
    liger:  use Liger's Triton kernels for norms, rotary embeddings and feed-forward layers
    zero3:  the DeepSpeed configuration if weights are to be sharded (torch.distributed must be up)
    """
    sharded = ShardedLoading(zero3) if zero3 is not None else None
    with explained(name, hub):
        model: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=dtype,
            trust_remote_code=hub.trust_remote_code,
            **at_revision(revision),
            **quantization(lora, dtype),
        )
    del sharded
    if lora is not None:
        add_adapters(model, lora, dtype)
    if liger:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance

        # The loss stays ours: it weighs tokens.
        _apply_liger_kernel_to_instance(
            model, cross_entropy=False, fused_linear_cross_entropy=False
        )
    student = StudentLoss(model)
    if packed:
        model.set_attn_implementation(ATTENTION)
    recompute(model, recompute_named(gradient_checkpointing))
    student.train()
    return student


def gather_weights(model: Any, *, keep: bool, only: str = "") -> dict[str, Tensor]:
    """Whole weights by name, on the CPU; tied ones once. Every rank must call it.

    keep: whether this rank keeps them; the others only take part and get an empty dictionary
    only: a part of the names of those to gather
    """
    import deepspeed

    whole: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if only not in name:
            continue
        sharded = [parameter] if hasattr(parameter, "ds_id") else []
        with deepspeed.zero.GatheredParameters(sharded):
            if keep:
                whole[name] = parameter.detach().to("cpu", copy=True)
    return whole


def load_weights(
    name: str, hub: HubConfig = DEFAULTS, revision: str | None = None
) -> dict[str, Tensor]:
    """The weights of a model by name, in the type that its configuration names, on the CPU."""
    with explained(name, hub):
        model: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=load_model_config(name, hub, revision).dtype or torch.float32,
            trust_remote_code=hub.trust_remote_code,
            **at_revision(revision),
        )
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def export_student(
    weights: dict[str, Tensor],
    generation: GenerationConfig,
    base: str,
    folder: Path,
    settings: dict[str, Any],
    hub: HubConfig = DEFAULTS,
    revision: str | None = None,
    adapter: Adapter | None = None,
) -> None:
    """Write the student as a Hugging Face folder, whole or not at all.

    weights:    from `gather_weights`
    generation: the trained model's generation config
    base:       folder or hub name of the base student, at `revision`: its config, tokenizer, dtype and the
                code that it brings are kept
    settings:   how the student is to be asked, written beside it for evaluation and serving
    adapter:    written beside it too, into ADAPTER_FOLDER; `weights` have it merged
    """
    config = load_model_config(base, hub, revision)
    dtype = config.dtype or torch.float32
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=hub.trust_remote_code
        )
    whole = {name: weight.to(dtype) for name, weight in weights.items()}
    keys = model.load_state_dict(whole, strict=False, assign=True)
    assert not keys.unexpected_keys, keys
    model.tie_weights()
    assert not any(parameter.is_meta for parameter in model.parameters()), keys
    model.generation_config = generation

    with new_folder(folder) as student:
        model.save_pretrained(student)
        load_tokenizer(base, hub, revision).save_pretrained(student)
        text = json.dumps(settings, indent=2, ensure_ascii=False) + "\n"
        (student / SETTINGS_FILE).write_text(text, encoding="utf-8")
        if adapter is not None:
            write_adapter(student / ADAPTER_FOLDER, adapter)
