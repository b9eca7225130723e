"""Protocol of the backend that does the server's searches, steps and chats."""

from collections.abc import AsyncIterator, Callable
from typing import Protocol

from steper_ray.engines.protocol import Engine
from steper_ray.retrieval.protocol import Retriever
from steper_ray.serving.plain_model import PlainRequest


class Backend(Protocol):
    """The LLM and the corpus."""

    @property
    def retriever(self) -> Retriever:
        """The retriever."""
        ...

    def engine(self, say: Callable[[str], None] | None = None) -> Engine:
        """The engine that writes the steps of one question.

        say: called with each piece of the text; with it a replica that dies ends the question
        """
        ...

    async def chat(self, request: PlainRequest) -> str:
        """The plain model's OpenAI response, as JSON; raises ModelRefusedError."""
        ...

    def chat_stream(self, request: PlainRequest) -> AsyncIterator[str]:
        """The plain model's OpenAI response as server-sent events; raises ModelRefusedError."""
        ...

    async def max_model_len(self) -> int:
        """Context of the model in tokens."""
        ...

    async def missing(self) -> list[str]:
        """Names of the parts that do not respond: `model`, `corpus`."""
        ...
