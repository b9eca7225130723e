"""The LLM behind the server: `ray.serve.llm`'s server with vLLM inside, one replica an engine.

`StudentLLM` is a deployment of its own; a fused replica holds the same `LocalLLM` (`fused.py`).

Beside chats it writes steps of the reasoning loop from token ids: the ingress encodes the prompt as
training did, and needs the number of cached tokens, which an OpenAI response does not have.

vLLM is imported in the replica only. A replica whose engine has died fails its health check, and Serve
replaces it.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ray import serve

from steper_ray.engines.protocol import Generation, Sampling
from steper_ray.engines.vllm_engine import (
    check_context,
    engine_arguments,
    engine_starts,
    prepare_process,
    read_output,
    run_request,
    takes_seeds,
)
from steper_ray.errors import EngineDiedError, ReplicaLostError, RowError
from steper_ray.models.hub import use_hub
from steper_ray.models.loading import load_tokenizer
from steper_ray.ray_runtime.logs import LaunchLog
from steper_ray.ray_runtime.placement import served_engine_bundles, served_engine_strategy
from steper_ray.run.versions import use
from steper_ray.serving.deployments.replica_log import start_replica_log
from steper_ray.serving.plain_model import PlainModel, PlainRequest, tool_arguments
from steper_ray.serving.server_spec import LLMSpec
from steper_ray.serving.stall import EngineWatch, StalledError

logger = logging.getLogger(__name__)

PLAIN_CHAT: Final = "{{ messages | map(attribute='content') | join('\n') }}"
"""Chat template for a model without one: the messages, separated by line breaks."""


@dataclass(frozen=True, slots=True)
class StepRequest:
    """Request to write a step of the reasoning loop."""

    prompt: str
    """The text of `ids`, which the prefix-aware router compares; empty where there is one replica."""
    ids: list[int]
    stop: tuple[str, ...]
    max_tokens: int
    sampling: Sampling


def ending_chats(arguments: Mapping[str, Any], most: int) -> dict[str, Any]:
    """vLLM's arguments with a limit on what a chat writes, whatever it asks for.

    The limit cannot be put into the requests: vLLM refuses one whose limit and prompt exceed the context.
    """
    overrides = dict(arguments.get("override_generation_config") or {})
    overrides["max_new_tokens"] = min(most, overrides.get("max_new_tokens", most))
    return {**arguments, "override_generation_config": overrides}


def _generation(final: Any) -> Generation:
    """The generation in a last output; raises ReplicaLostError where the engine gave the request up."""
    try:
        return read_output(final)
    except RowError as error:
        raise ReplicaLostError(str(error)) from None


class LocalLLM:
    """One vLLM engine under `ray.serve.llm.LLMServer`, in a replica of Ray Serve."""

    async def start(self, spec: LLMSpec) -> None:
        """Start the engine.

        Raises InputError if the model cannot be loaded, if vLLM refuses an argument, or if the context is
        too short for the prompts.
        """
        model, config, hub = spec.model, spec.engine, spec.hub
        self._use = use(Path(model))
        use_hub(hub)
        prepare_process(config)
        from ray.serve.llm import LLMConfig, LLMServer

        from steper_ray.serving.deployments.ray_vllm_engine import NOTHING_FETCHED, StudentEngine

        arguments = {"enable_prompt_tokens_details": True, **engine_arguments(config, hub)}
        arguments = ending_chats(arguments, spec.max_output_tokens)
        if spec.tool_parser:
            arguments |= tool_arguments(spec.tool_parser)
        if not getattr(load_tokenizer(model, hub), "chat_template", None):
            arguments["chat_template"] = PLAIN_CHAT
        local = Path(model).expanduser().is_dir()
        llm_config = LLMConfig(
            model_loading_config={"model_id": spec.name, "model_source": model},
            accelerator_config={"kind": "gpu" if config.gpus else "cpu"},
            placement_group_config={
                "bundles": served_engine_bundles(config),
                "strategy": served_engine_strategy(config),
            },
            engine_kwargs=arguments,
            callback_config={"callback_class": NOTHING_FETCHED} if local else {},
        )
        with engine_starts(model, hub):
            server: Any = LLMServer.sync_init(llm_config, engine_cls=StudentEngine)
            await server.start()
        self._server, self._llm = server, server.engine.client
        self._seeded = takes_seeds(config)
        self._plain = PlainModel(server, seeded=self._seeded)
        check_context(model, self._llm, spec.reasoning)
        self._watch = EngineWatch(self._llm, spec.stall_s)
        logger.info("the engine of %s is ready", model)

    async def write(self, request: StepRequest) -> Generation:
        """Write a step; raises RowError if the engine refuses the prompt, ReplicaLostError if it died."""
        final = None
        async for output in self._run(request, streamed=False):
            final = output
        return _generation(final)

    async def write_stream(self, request: StepRequest) -> AsyncIterator[str | Generation]:
        """`write` as a stream: pieces of the text, and the whole generation at the end."""
        final, said = None, 0
        async for output in self._run(request, streamed=True):
            final, text = output, output.outputs[0].text
            if len(text) > said:
                yield text[said:]
                said = len(text)
        yield _generation(final)

    async def _run(self, request: StepRequest, *, streamed: bool) -> AsyncIterator[Any]:
        try:
            async for output in run_request(
                self._llm,
                request.ids,
                stop=request.stop,
                max_tokens=request.max_tokens,
                sampling=request.sampling,
                seeded=self._seeded,
                streamed=streamed,
            ):
                yield output
        except EngineDiedError:
            raise ReplicaLostError("the engine died") from None

    async def chat(self, request: PlainRequest) -> str:
        """The plain model's whole OpenAI response, as JSON; raises what `chat_stream` raises."""
        return "".join([part async for part in self._plain.stream(request)])

    async def chat_stream(self, request: PlainRequest) -> AsyncIterator[str]:
        """The plain model's OpenAI response, in parts; see `PlainModel.stream`."""
        async for part in self._plain.stream(request):
            yield part

    async def max_model_len(self) -> int:
        """Most tokens of a prompt and what is written after it."""
        return int(self._llm.model_config.max_model_len)

    async def unfinished(self) -> int:
        """Number of unfinished requests in the engine."""
        return int(self._llm.output_processor.get_num_unfinished_requests())

    async def check_health(self) -> None:
        """Raises if the engine is dead or hangs; Serve then replaces the replica."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._server.check_health()
            self._watch.check()
        except (EngineDeadError, StalledError) as error:
            logger.error("the engine is lost: %s; Serve replaces this replica", error)
            raise


@serve.deployment
class StudentLLM(LocalLLM):
    """The LLM as a deployment of its own."""

    async def __init__(self, spec: LLMSpec, log: LaunchLog) -> None:  # type: ignore[misc]
        """See `LocalLLM.start`."""
        start_replica_log(log)
        await self.start(spec)
