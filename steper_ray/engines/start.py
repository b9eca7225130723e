"""Starting the engine of a model from its settings."""

from steper_ray.engines.endpoint import EndpointEngine
from steper_ray.engines.protocol import Engine
from steper_ray.engines.settings import EndpointConfig, EngineConfig
from steper_ray.engines.vllm_engine import VLLMEngine
from steper_ray.models.settings import DEFAULTS, HubConfig
from steper_ray.reasoning.settings import ReasoningConfig


def start_engine(
    model: str,
    settings: EngineConfig,
    reasoning: ReasoningConfig,
    *,
    endpoint: EndpointConfig | None = None,
    hub: HubConfig = DEFAULTS,
    revision: str | None = None,
) -> Engine:
    """Start the engine of a model inside a running event loop: its endpoint, or vLLM in this process.

    model:     folder or Hub name; with an endpoint the name by which the endpoint knows it
    reasoning: complete settings; their prompts must fit into vLLM's context
    Raises InputError as `EndpointEngine` and `VLLMEngine` do.
    """
    if endpoint is not None:
        return EndpointEngine(model, endpoint, hub)
    return VLLMEngine(model, settings, reasoning, hub, revision)
