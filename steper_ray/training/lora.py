"""Low-rank adapters (LoRA, Hu et al. 2021): the base student stays as it is, only small factors learn.

peft puts them in. The student is exported with them merged, W + (α/r)·B·A with W as the base student has
it, so nothing that comes after training knows of them; beside it they lie apart, as peft loads them.

With 4-bit matrices (QLoRA, Dettmers et al. 2023) the factors learn beside what bitsandbytes keeps of W in
NF4, which is some per cent away from W; merged they are added to W itself.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from steper_ray.errors import AllRanksError, InputError
from steper_ray.run.secrets import is_on_hub, public_name
from steper_ray.training.settings import LoraConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor


ADAPTER: Final = "default"


FACTOR: Final = ".lora_"
"""In the names of the adapters' weights, and of no others."""


ADAPTER_FOLDER: Final = "adapter"
"""Folder of the adapters within that of a student."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapters of a trained model."""

    config: Any
    """peft's, with the names of the modules that have one."""
    weights: "dict[str, Tensor]"
    """Whole, by name, as `gather_weights` gives them."""
    base: str
    """Folder or Hub name of the base student."""
    revision: str | None


def check_lora(lora: LoraConfig | None) -> None:
    """Raises InputError if what adapters need is not installed."""
    if lora is not None and find_spec("peft") is None:
        raise InputError("train.lora: peft is not installed; pip install 'steper_ray[lora]'")
    if lora is not None and lora.quantize and find_spec("bitsandbytes") is None:
        raise InputError(
            "train.lora.quantize: bitsandbytes is not installed; pip install 'steper_ray[qlora]'"
        )


def add_adapters(model: Any, lora: LoraConfig, dtype: "torch.dtype") -> None:
    """Put adapters into a model, in place, and freeze everything else.

    Raises AllRanksError for a name in `target_modules` that is no linear layer's, or the output head's: the
    loss takes the head as it is.
    """
    import peft

    head = model.get_output_embeddings()

    targets = lora.target_modules
    settings = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # annotated int, used as a factor
        lora_dropout=lora.dropout,
        target_modules=targets if isinstance(targets, str) else list(targets),
        task_type="CAUSAL_LM",
    )
    try:
        peft.inject_adapter_in_model(settings, model, ADAPTER)
    except ValueError as error:
        raise AllRanksError(f"train.lora.target_modules: {error}", of_input=True) from error
    for name, module in model.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        is_head = module.get_base_layer() is head
        if is_head or ADAPTER not in module.lora_A:
            kind = "the output head" if is_head else "no linear layer"
            raise AllRanksError(
                f"train.lora.target_modules: {name} is {kind}; leave it out", of_input=True
            )
    for name, parameter in model.named_parameters():
        if FACTOR in name:
            parameter.data = parameter.data.to(dtype)


def quantization(lora: LoraConfig | None, dtype: "torch.dtype") -> dict[str, Any]:
    """Arguments with which `from_pretrained` keeps all matrices but the embedding and the head in 4 bits.

    dtype: what is computed in; matrices are brought back to it one at a time
    """
    if lora is None or lora.quantize is None:
        return {}
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
    return {"quantization_config": settings}


def merge_adapters(base: "dict[str, Tensor]", adapter: Adapter) -> "dict[str, Tensor]":
    """The weights of the plain model: those of the base student, each update added to its matrix, in place.

    base: by name, in their own type, which they keep
    """
    scale = adapter.config.lora_alpha / adapter.config.r
    for name, first in adapter.weights.items():
        module, inside, _ = name.partition(f"{FACTOR}A.")
        if not inside:
            continue
        second = adapter.weights[f"{module}{FACTOR}B.{ADAPTER}.weight"]
        update = second.float() @ first.float() * scale
        weight = base[f"{module}.weight"]
        if adapter.config.fan_in_fan_out:  # GPT-2's matrices are (inputs, outputs)
            update = update.T
        base[f"{module}.weight"] = (weight.float() + update).to(weight.dtype)
    return base


def write_adapter(folder: Path, adapter: Adapter) -> None:
    """Write the adapters as `peft.PeftModel.from_pretrained(base, folder)` loads them.

    A local base student is named by its folder's last part: what is written may be published.
    """
    from safetensors.torch import save_file

    config = adapter.config
    config.inference_mode = True
    config.base_model_name_or_path = public_name(adapter.base)
    config.revision = adapter.revision if is_on_hub(adapter.base) else None
    config.save_pretrained(folder)
    weights = {
        f"base_model.model.{name.replace(f'.{ADAPTER}.', '.')}": weight.contiguous()
        for name, weight in adapter.weights.items()
    }
    save_file(weights, folder / "adapter_model.safetensors", {"format": "pt"})
