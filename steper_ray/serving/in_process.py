"""Engine and backend of a fused replica: the engine and the corpus are in the same process.

A replica that dies takes its questions with it, so there is nobody to ask again: the client is told that
asking again is safe.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TYPE_CHECKING

from steper_ray.engines.protocol import GREEDY, Generation, Sampling
from steper_ray.errors import ReplicaLostError
from steper_ray.reasoning.encoder import CountsTokens, PromptEncoder
from steper_ray.reasoning.frameworks.protocol import Prompt
from steper_ray.serving.plain_model import PlainRequest
from steper_ray.serving.stall import StalledError, WatchedRetriever

if TYPE_CHECKING:
    from steper_ray.serving.deployments.llm import LocalLLM


class LocalEngine(CountsTokens):
    """An `Engine` over the engine of this process."""

    def __init__(
        self,
        llm: "LocalLLM",
        encoder: PromptEncoder,
        say: Callable[[str], None] | None = None,
    ) -> None:
        """say: called with each piece of the text"""
        self._llm, self._encoder, self._say = llm, encoder, say

    async def generate(
        self, prompt: Prompt, *, stop: Sequence[str], max_tokens: int, sampling: Sampling = GREEDY
    ) -> Generation:
        """See `VLLMEngine.generate`; raises ReplicaLostError if the engine died."""
        from steper_ray.serving.deployments.llm import StepRequest

        ids = await asyncio.to_thread(self._encoder.encode, prompt)
        request = StepRequest("", ids, tuple(stop), max_tokens, sampling)
        if self._say is None:
            return await self._llm.write(request)
        async for part in self._llm.write_stream(request):
            if isinstance(part, Generation):
                return part
            self._say(part)
        raise ReplicaLostError("the engine ended the answer early")


class LocalBackend:
    """A `Backend` in one process."""

    def __init__(
        self, llm: "LocalLLM", retriever: WatchedRetriever, encoder: PromptEncoder
    ) -> None:
        self._llm, self._encoder = llm, encoder
        self.retriever = retriever

    def engine(self, say: Callable[[str], None] | None = None) -> LocalEngine:
        """Engine that writes the steps of one question; see `Backend.engine`."""
        return LocalEngine(self._llm, self._encoder, say)

    async def chat(self, request: PlainRequest) -> str:
        """The plain model's OpenAI response; raises ModelRefusedError if the request cannot be met."""
        return await self._llm.chat(request)

    def chat_stream(self, request: PlainRequest) -> AsyncIterator[str]:
        """Server-sent events of the plain model's response."""
        return self._llm.chat_stream(request)

    async def max_model_len(self) -> int:
        """Context of the model in tokens."""
        return await self._llm.max_model_len()

    async def missing(self) -> list[str]:
        """Names of the parts that are dead or hang: `model`, `corpus`."""
        from vllm.v1.engine.exceptions import EngineDeadError

        missing = []
        try:
            await self._llm.check_health()
        except (EngineDeadError, StalledError):
            missing.append("model")
        try:
            self.retriever.check()
        except StalledError:
            missing.append("corpus")
        return missing
