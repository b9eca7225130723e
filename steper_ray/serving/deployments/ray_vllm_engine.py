"""Ray's vLLM engine with two changes for a student. Imports vLLM: for the replica only."""

from typing import Any, Final

from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine


class StudentEngine(VLLMEngine):
    """Ray's vLLM engine, which on CPU computes in the engine's own process.

    Ray would take vLLM's multi-process executor, whose worker imports everything again and gets each step
    through shared memory.
    """

    def _start_async_llm_engine(self, arguments: Any, config: Any, placement_group: Any) -> Any:
        on_cpu = config.device_config.device_type == "cpu"
        if on_cpu and config.parallel_config.world_size == 1:
            config.parallel_config.distributed_executor_backend = "uni"
        return super()._start_async_llm_engine(arguments, config, placement_group)

    @property
    def client(self) -> Any:
        """vLLM's `AsyncLLM`."""
        return self._engine_client

    @property
    def responses(self) -> Any:
        """vLLM's `OpenAIServingResponses`, which Ray's engine hands on to nobody; None without one."""
        return getattr(self._app_state, "openai_serving_responses", None)

    @property
    def tokenization(self) -> Any:
        """vLLM's `ServingTokenization`, which Ray's engine looks for under another name."""
        return self._app_state.serving_tokenization


class _NothingFetched(CallbackBase):
    """Skips Ray's model download for local folders; it would start a process with vLLM on each node."""

    async def on_before_node_init(self) -> None:
        self.ctx.run_init_node = False


NOTHING_FETCHED: Final = f"{__name__}:{_NothingFetched.__name__}"
