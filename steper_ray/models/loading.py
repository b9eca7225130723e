"""A model's tokenizer and configuration, loaded with transformers."""

from typing import Any

from steper_ray.errors import InputError
from steper_ray.models.hub import at_revision, explained, hub_message, use_hub
from steper_ray.models.settings import DEFAULTS, HubConfig


def load_tokenizer(model: str, hub: HubConfig = DEFAULTS, revision: str | None = None) -> Any:
    """A model's tokenizer; raises InputError with the reason if it cannot be had."""
    use_hub(hub)
    from transformers import AutoTokenizer

    try:
        with explained(model, hub):
            return AutoTokenizer.from_pretrained(
                model, trust_remote_code=hub.trust_remote_code, **at_revision(revision)
            )
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{model}: its tokenizer cannot be loaded ({hub_message(error)})"
        ) from None


def load_model_config(model: str, hub: HubConfig = DEFAULTS, revision: str | None = None) -> Any:
    """A model's transformers configuration. It has an `auto_map` only where the code it names is run.

    Raises InputError with the reason if it cannot be had.
    """
    use_hub(hub)
    from transformers import AutoConfig

    with explained(model, hub):
        config: Any = AutoConfig.from_pretrained(
            model, trust_remote_code=hub.trust_remote_code, **at_revision(revision)
        )
    if not hub.trust_remote_code and hasattr(config, "auto_map"):
        del config.auto_map
    return config
