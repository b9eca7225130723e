"""The plain model under OpenAI's interface, in the LLM's replica: vLLM's own classes, asked without HTTP.

Requests are the bodies that the ingress let through (`steper_ray.serving.api.openai_plain`); vLLM checks
them, writes the replies and says what is wrong. `ray.serve.llm` hands on chats and completions; responses
and tokens are asked of vLLM's classes behind it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from steper_ray.errors import InputError, ModelRefusedError, ReplicaLostError
from steper_ray.run.section import did_you_mean
from steper_ray.text import short_message

PlainKind = Literal["chat", "completions", "tokenize", "responses"]
"""The interfaces of the plain model."""


LONGEST_MESSAGE: Final = 280
"""Most characters of vLLM's message that a client is shown."""


TOO_LONG: Final = "maximum context length"
"""Stands in vLLM's message about a prompt that is too long."""


@dataclass(frozen=True, slots=True)
class PlainRequest:
    """An OpenAI request to the plain model."""

    kind: PlainKind
    body: Mapping[str, Any]
    messages: list[Any] = field(default_factory=list)
    """What the prefix-aware router compares: the texts of the prompt, or its messages."""


def plain_request(kind: PlainKind, body: Mapping[str, Any]) -> PlainRequest:
    """The request of a body."""
    said = body.get("messages", body.get("prompt", body.get("input", "")))
    return PlainRequest(kind, body, list(said) if isinstance(said, list) else [said])


class PlainModel:
    """A started `ray.serve.llm.LLMServer`, asked for OpenAI's replies."""

    def __init__(self, server: Any, *, seeded: bool) -> None:
        """seeded: whether the engine takes seeds"""
        self._server, self._seeded = server, seeded

    async def stream(self, request: PlainRequest) -> AsyncIterator[str]:
        """The reply: its server-sent events, or all of it as JSON.

        Raises ModelRefusedError if the request cannot be met, ReplicaLostError if the engine died.
        """
        from pydantic import ValidationError
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        body = dict(request.body)
        if not self._seeded:
            body.pop("seed", None)
        try:
            async with aclosing(self._replies(request.kind, body)) as replies:
                async for reply in replies:
                    for part in reply if isinstance(reply, list) else [reply]:
                        if _is_error(part):
                            raise _refused(part.error.message, part.error.code, part.error.param)
                        yield part if isinstance(part, str) else _as_json(part)
        except ValidationError as error:
            finding = error.errors()[0]
            param = ".".join(str(place) for place in finding["loc"][:1]) or None
            raise _refused(finding["msg"], 400, param) from None
        except VLLMClientError as error:
            param = getattr(error, "parameter", None)
            raise _refused(error.args[0] if error.args else str(error), 400, param) from None
        except EngineDeadError:
            raise ReplicaLostError("the engine died") from None

    async def _replies(self, kind: PlainKind, body: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """What vLLM replies: lists of events, or one response or error."""
        from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

        if kind == "tokenize":
            tokenization = self._server.engine.tokenization
            yield await tokenization.create_tokenize(_tokenize_request(body), None)
            return
        if kind == "responses":
            replies = self._responses(body)
        elif kind == "chat":
            replies = await self._server.chat(ChatCompletionRequest.model_validate(body))
        else:
            replies = await self._server.completions(CompletionRequest.model_validate(body))
        async for reply in replies:
            yield reply

    async def _responses(self, body: dict[str, Any]) -> AsyncGenerator[Any, None]:
        from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

        serving = self._server.engine.responses
        if serving is None:
            raise ModelRefusedError("this model gives no responses; ask for chat completions", 404)
        reply = await serving.create_responses(ResponsesRequest.model_validate(body))
        if not hasattr(reply, "__aiter__"):
            yield reply
            return
        async for event in reply:
            yield f"event: {event.type}\ndata: {_as_json(event)}\n\n"


def tool_arguments(parser: str) -> dict[str, Any]:
    """vLLM's arguments to read tool calls with; raises InputError for a parser that it does not have."""
    from vllm.tool_parsers import ToolParserManager

    known = ToolParserManager.list_registered()
    if parser not in known:
        hint = did_you_mean(parser, known) or f"there are {', '.join(known)}"
        raise InputError(f"serve.tool_parser: vLLM has no parser {parser!r}; {hint}")
    return {"enable_auto_tool_choice": True, "tool_call_parser": parser}


def _tokenize_request(body: dict[str, Any]) -> Any:
    from vllm.entrypoints.serve.tokenize.protocol import (
        TokenizeChatRequest,
        TokenizeCompletionRequest,
    )

    kind = TokenizeChatRequest if "messages" in body else TokenizeCompletionRequest
    return kind.model_validate(body)


def _is_error(part: Any) -> bool:
    """Whether a part is vLLM's error; a response has a field of that name too, which may be empty."""
    return isinstance(getattr(getattr(part, "error", None), "message", None), str)


def _refused(message: str, status: int | None, param: str | None) -> ModelRefusedError:
    """The refusal of an error of vLLM's."""
    if status is not None and status >= 500 and status != 501:  # 501: it has no such feature
        return ModelRefusedError("the model failed at this request; its log says why", 500)
    too_long = TOO_LONG in message
    return ModelRefusedError(
        short_message(message, longest=LONGEST_MESSAGE),
        status if status is not None and 400 <= status < 500 else 400,
        "messages" if too_long else param,
        too_long,
    )


def _as_json(reply: Any) -> str:
    text: str = reply.model_dump_json(by_alias=True)
    return text
