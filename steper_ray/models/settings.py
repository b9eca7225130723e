"""The `hub` section: how models and data sets on the Hugging Face Hub are reached."""

from typing import Final

from steper_ray.run.section import EnvironmentName, Section

TOKEN: Final = "HF_TOKEN"
"""Where huggingface_hub, and all that is built on it, looks for the token."""


class HubConfig(Section):
    """How models and data sets on the Hugging Face Hub are reached, and what of theirs is run."""

    trust_remote_code: bool = False
    """Run the Python code that a model folder or repository brings, wherever the model is loaded; read it
    before."""
    offline: bool = False
    """Use only what is on disk or was fetched before; `false` leaves HF_HUB_OFFLINE as it is."""
    token_env: EnvironmentName = TOKEN
    """Environment variable with the token for gated and private repositories, on every machine that loads
    from them; the token is written nowhere. Unset leaves what `hf auth login` left."""


DEFAULTS: Final = HubConfig()
