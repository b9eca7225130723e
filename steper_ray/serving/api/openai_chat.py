"""OpenAI-compatible chat API: the plain model and the whole reasoning loop as two models.

`<model>` is the plain model under its chat template (vLLM's own implementation, in `ray.serve.llm`);
`<model>-rag` answers the last user message by the whole reasoning loop. It has no memory: earlier messages
are not read. Its rationales are `reasoning_content`, as reasoning models' are, and every response has the
steps with their passages in the extension field `steper`, which also names ignored parts of the request.
"""

import json
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.responses import Response

from steper_ray.engines.protocol import Sampling
from steper_ray.reasoning.loop import StepFinished
from steper_ray.serving.answering import AnswerReady, AnswerService, ServiceEvent, TextPiece
from steper_ray.serving.api.events import STREAM, stream_events
from steper_ray.serving.api.schema import TOO_LARGE, AnswerOut, AnyText, Body, ErrorOut
from steper_ray.serving.refusals import RefusedError, error_body

RAG: Final = "-rag"
"""Suffix of the name of the model that is the whole loop."""


OWNER: Final = "steper_ray"


UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"model": ErrorOut}}
"""OpenAPI's description of a route that names a model."""


SAMPLED: Final = ("temperature", "top_p", "seed")
"""Sampling parameters of a chat that the loop follows."""


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: AnyText


class Message(Body):
    """A message; only text."""

    role: Literal["system", "developer", "user", "assistant"]
    content: AnyText | Annotated[list[TextPart], Field(fail_fast=True)]
    name: AnyText | None = None

    @property
    def text(self) -> str:
        """The text of the message."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool = False


class ChatBody(Body):
    """Body of POST /v1/chat/completions: the OpenAI parameters that the plain model follows."""

    model: AnyText
    messages: list[Message] = Field(min_length=1, fail_fast=True)
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=TOO_LARGE)
    max_tokens: int | None = Field(default=None, ge=1, lt=TOO_LARGE)
    max_completion_tokens: int | None = Field(default=None, ge=1, lt=TOO_LARGE)
    stop: AnyText | Annotated[list[AnyText], Field(max_length=4)] | None = None
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    n: Literal[1] | None = None
    user: AnyText | None = None

    @property
    def question(self) -> str:
        """The last user message; raises RefusedError without one."""
        asked = [message.text.strip() for message in self.messages if message.role == "user"]
        if not asked or not asked[-1]:
            raise RefusedError(
                422, "no_question", "messages: no user message with text", param="messages"
            )
        return asked[-1]

    @property
    def sampling(self) -> Sampling:
        """Sampling parameters for the loop."""
        top_p = 1.0 if self.top_p is None else self.top_p
        return Sampling(self.temperature or 0.0, top_p, self.seed)

    @property
    def ignored(self) -> list[str]:
        """Parameters that the reasoning loop ignores."""
        known = {"model", "messages", "stream", "stream_options", "n", "user", *SAMPLED}
        given = self.model_dump(exclude_none=True, exclude=known)
        earlier = ["earlier messages"] if len(self.messages) > 1 else []
        return [*given, *earlier]


def chat_routes(service: AnswerService) -> APIRouter:
    """The routes."""
    router = APIRouter()
    names = (service.model, service.model + RAG)
    cards = [
        {"id": name, "object": "model", "created": int(time.time()), "owned_by": OWNER}
        for name in names
    ]

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The two models."""
        return {"object": "list", "data": cards}

    @router.get("/v1/models/{name}", responses=UNKNOWN)
    async def model(name: str) -> dict[str, Any]:
        """One of the two."""
        return cards[0] if is_plain_model(name) else cards[1]

    @router.post("/v1/chat/completions", responses=UNKNOWN | STREAM)
    async def chat(body: ChatBody) -> Response:
        """Chat with the plain model, or have the last message answered by the whole loop."""
        if is_plain_model(body.model):
            return await plain(service, body)
        service.check_question(body.question, "messages")
        settings, question = service.reasoning.settings, body.question
        if body.stream:
            return await rag_stream(service.stream(question, settings, body.sampling), body)
        answer = await service.answer(question, settings, body.sampling)
        return Response(json.dumps(completion(answer, body)), media_type="application/json")

    def is_plain_model(name: str) -> bool:
        """Whether a name is that of the plain model; raises RefusedError if it is that of neither."""
        if name not in names:
            raise RefusedError(
                404, "model_not_found", f"model: none is called {name[:100]!r}; GET /v1/models"
            )
        return name == service.model

    return router


async def plain(service: AnswerService, body: ChatBody) -> Response:
    """The plain model's response, which vLLM makes."""
    for message in body.messages:
        service.check_question(message.text, "messages")
    request = body.model_dump(exclude_none=True)
    if not body.stream:
        return Response(await service.chat(request), media_type="application/json")
    return await stream_events(service.chat_stream(request), lambda part: (part,), _failed)


def completion(answer: AnswerOut, body: ChatBody) -> dict[str, Any]:
    """An answer as an OpenAI response."""
    return {
        **_head("chat.completion", body),
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": answer.answer,
                    "reasoning_content": "\n".join(step.rationale for step in answer.steps),
                },
                "finish_reason": answer.finish_reason,
                "logprobs": None,
            }
        ],
        "usage": usage(answer),
        "steper": extension(answer, body),
    }


def usage(answer: AnswerOut) -> dict[str, Any]:
    """The tokens of all steps."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.generated_tokens,
        "total_tokens": answer.prompt_tokens + answer.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


def extension(answer: AnswerOut, body: ChatBody) -> dict[str, Any]:
    """Extension field `steper`: what an OpenAI response has no field for."""
    return {**answer.model_dump(exclude={"answer", "finish_reason"}), "ignored": body.ignored}


async def rag_stream(happenings: AsyncGenerator[ServiceEvent, None], body: ChatBody) -> Response:
    """The loop as OpenAI's chunks: rationales as `reasoning_content`, then the answer and `steper`."""
    head = _head("chat.completion.chunk", body)

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return _data({**head, "choices": [choice], **more})

    def chunks(happening: ServiceEvent) -> list[str]:
        match happening:
            case TextPiece(text=text):
                return [chunk({"reasoning_content": text})]
            case StepFinished(last=False):
                return [chunk({"reasoning_content": "\n"})]
            case AnswerReady(answer):
                said = [
                    chunk({"content": answer.answer}),
                    chunk({}, answer.finish_reason, steper=extension(answer, body)),
                ]
                if body.stream_options and body.stream_options.include_usage:
                    said.append(_data({**head, "choices": [], "usage": usage(answer)}))
                return [*said, "data: [DONE]\n\n"]
        return []

    role = chunk({"role": "assistant", "content": ""})
    return await stream_events(happenings, chunks, _failed, opening=(role,))


def _head(kind: str, body: ChatBody) -> dict[str, Any]:
    """Common fields of every OpenAI response."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
    }


def _failed(refused: RefusedError) -> str:
    return _data(error_body(refused))


def _data(value: Any) -> str:
    return f"data: {json.dumps(value)}\n\n"
