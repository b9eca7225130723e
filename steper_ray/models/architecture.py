"""Sizes of a model by its configuration alone: parameters, bytes, keys and values.

The parameters are counted by building the model without memory (torch's `meta` device), so that they are
exact for every architecture that transformers has.
"""

from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Final

from steper_ray.errors import InputError
from steper_ray.models.hub import Shapes
from steper_ray.models.loading import load_model_config
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.text import short_message

STATEFUL_KEYS: Final = (
    "layers_block_type",
    "hybrid_override_pattern",
    "state_size",
    "ssm_state_size",
    "mamba_d_state",
    "attention_chunk_size",
    "index_topk",
    "multi_query",
    "global_head_dim",
    "num_kv_shared_layers",
)
"""Keys of configurations whose layers keep something else than the same keys and values each."""


@dataclass(frozen=True, slots=True)
class KeyValues:
    """What the layers keep of each token."""

    full_layers: int
    """Layers that keep all tokens."""
    window_layers: int
    """Layers that keep the last `window` tokens."""
    window: int
    heads: int
    """Heads of keys and values; 0 where all heads share one latent vector (MLA)."""
    numbers: int
    """Numbers a token and layer: of one head's key and value, or of the latent vector."""

    def numbers_at(self, tokens: int, tensor_parallel: int = 1) -> int:
        """Numbers that one of the tensor-parallel ranks keeps of a text of so many tokens.

        Where there are more ranks than heads, each keeps a whole head; a latent vector is on all of them.
        """
        each = self.numbers * (max(1, self.heads // tensor_parallel) if self.heads else 1)
        return each * (self.full_layers * tokens + self.window_layers * min(tokens, self.window))


@dataclass(frozen=True, slots=True)
class Architecture:
    """Sizes of a model."""

    config: Any
    """The text model's transformers configuration."""
    shapes: Shapes
    """Name → shape and bytes of each weight, tied ones once."""
    active: int | None
    """Parameters that a token goes through, embeddings included; None where it is not known."""
    tables: int
    """Parameters of the embedding and the head, tied ones once."""
    heads: int
    layers: int
    key_values: KeyValues | None
    """None where they do not follow from the configuration."""
    quantized: str | None
    """How its weights are quantized; their bytes are then not those of `shapes`."""

    @property
    def parameters(self) -> int:
        """All parameters."""
        return sum(prod(shape) for shape, _ in self.shapes.values())


def read_architecture(
    model: str, setting: str, hub: HubConfig = DEFAULTS, revision: str | None = None
) -> Architecture:
    """Sizes of a model.

    model:   a `config.json`, a folder with one, or a name on the Hub, from which only that is fetched
    setting: its name for errors
    Raises InputError for a configuration that cannot be had or is of no language model.
    """
    path = Path(model).expanduser()
    if model.endswith(".json") and not path.is_file():
        raise InputError(f"{setting}: {model}: no such file; give the config.json of the model")
    if path.is_dir() and not (path / "config.json").is_file():
        raise InputError(f"{setting}: {model}: not a model folder (no config.json in it)")
    try:
        config = load_model_config(str(path) if path.exists() else model, hub, revision)
        return architecture_of(config, trust_remote_code=hub.trust_remote_code)
    except InputError as error:
        raise InputError(f"{setting}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{setting}: {model}: no configuration of a language model ({short_message(error)}); give the "
            "config.json of the model"
        ) from None


def architecture_of(config: Any, *, trust_remote_code: bool = False) -> Architecture:
    """Sizes of the model that a transformers configuration describes."""
    import torch
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(text, trust_remote_code=trust_remote_code)
    named = dict(model.named_parameters())
    shapes = {
        name: (list(weight.shape), weight.numel() * weight.element_size())
        for name, weight in named.items()
    }
    tables = {
        id(table.weight): table.weight.numel()
        for table in (model.get_input_embeddings(), model.get_output_embeddings())
        if table is not None
    }
    quantization = getattr(config, "quantization_config", None)
    return Architecture(
        config=text,
        shapes=shapes,
        active=_active(text, shapes),
        tables=sum(tables.values()),
        heads=text.num_attention_heads,
        layers=text.num_hidden_layers,
        key_values=_key_values(text),
        quantized=_method(quantization),
    )


def _method(quantization: Any) -> str | None:
    if quantization is None:
        return None
    if isinstance(quantization, dict):
        return str(quantization.get("quant_method", "quantized"))
    return str(getattr(quantization, "quant_method", "quantized"))


def _active(config: Any, shapes: Shapes) -> int | None:
    """Parameters that a token goes through: of a mixture, only those of the experts it chooses."""
    total = sum(prod(shape) for shape, _ in shapes.values())
    experts = sum(prod(shape) for name, (shape, _) in shapes.items() if ".experts." in name)
    if not experts:
        return total
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    count = next((value for name in names if (value := getattr(config, name, None))), None)
    chosen = getattr(config, "num_experts_per_tok", None)
    if not count or not chosen:
        return None
    return int(total - experts + experts * chosen // count)


def _key_values(config: Any) -> KeyValues | None:
    """What the layers keep of a token; None for layers that are not known here."""
    if any(getattr(config, key, None) for key in STATEFUL_KEYS):
        return None
    layers, window = config.num_hidden_layers, getattr(config, "sliding_window", None) or 0
    kinds = getattr(config, "layer_types", None)
    if kinds is None:
        kinds = ["sliding_attention" if window else "full_attention"] * layers
    sliding = sum(kind == "sliding_attention" for kind in kinds)
    full = sum(kind == "full_attention" for kind in kinds)
    if sliding + full != layers or (sliding and not window):
        return None
    latent = getattr(config, "kv_lora_rank", None)
    if latent:
        return KeyValues(full, sliding, window, 0, latent + config.qk_rope_head_dim)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return KeyValues(full, sliding, window, heads, 2 * size)
