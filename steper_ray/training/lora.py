"""Low-rank adapters (LoRA, Hu et al. 2021): the base student stays as it is, only small factors learn.

peft puts them in; the student is exported with them merged, W + (α/r)·B·A, so nothing that comes after
training knows of them.
"""

from typing import TYPE_CHECKING, Any, Final

from steper_ray.training.settings import LoraConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


ADAPTER: Final = "default"


def add_adapters(model: Any, lora: LoraConfig, dtype: "torch.dtype") -> None:
    """Put adapters into a model, in place, and freeze everything else.

    Raises ValueError if the model has no module of a name in `target_modules` (peft).
    """
    import peft

    targets = lora.target_modules
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated int, used as a factor
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    peft.inject_adapter_in_model(settings, model, ADAPTER)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:
            parameter.data = parameter.data.to(dtype)


def merge_adapters(weights: "dict[str, Tensor]", lora: LoraConfig) -> "dict[str, Tensor]":
    """The weights of the plain model: names as before the adapters, each update added to its matrix.

    weights: whole, by name, as `gather_weights` gives them
    """
    merged: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        module, inside, _ = name.rpartition(".base_layer.weight")
        if inside:
            first, second = (
                weights[f"{module}.lora_{factor}.{ADAPTER}.weight"].float() for factor in "AB"
            )
            update = second @ first * (lora.alpha / lora.rank)
            weight = (weight.float() + update).to(weight.dtype)
        merged[name.replace(".base_layer.", ".")] = weight
    return merged
