"""Protocol of the backend that does the server's searches, steps and chats."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

from steper_ray.engines.protocol import Engine
from steper_ray.retrieval.protocol import Retriever


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

    async def chat(self, body: Mapping[str, Any]) -> str:
        """The plain model's OpenAI response to a chat, as JSON."""
        ...

    def chat_stream(self, body: Mapping[str, Any]) -> AsyncIterator[str]:
        """The plain model's OpenAI response to a chat as server-sent events."""
        ...

    async def missing(self) -> list[str]:
        """Names of the parts that do not respond: `model`, `corpus`."""
        ...
