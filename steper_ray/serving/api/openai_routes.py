"""OpenAI-compatible API: the plain model and the whole reasoning loop as two models.

`<model>` is the plain model under its chat template (vLLM's own implementation); `<model>-rag` answers the
last user message by the whole reasoning loop, but for the prompts that chat interfaces send by themselves,
which the plain model answers. Completions of a text and token counts are the plain model's.
"""

import time
from typing import Any, Final

from fastapi import APIRouter
from starlette.responses import Response

from steper_ray.serving.answering import AnswerService
from steper_ray.serving.api.events import STREAM
from steper_ray.serving.api.openai_body import ChatBody
from steper_ray.serving.api.openai_chat import chat_by_loop
from steper_ray.serving.api.openai_errors import OpenAIRoute
from steper_ray.serving.api.openai_plain import CompletionBody, TokenizeBody, check_plain, plain
from steper_ray.serving.api.openai_responses import ResponsesBody, respond_by_loop
from steper_ray.serving.api.schema import ErrorOut
from steper_ray.serving.api.task_prompts import is_task_prompt
from steper_ray.serving.refusals import RefusedError

RAG: Final = "-rag"
"""Suffix of the name of the model that is the whole loop."""


OWNER: Final = "steper_ray"


UNKNOWN: Final[dict[int | str, dict[str, Any]]] = {404: {"model": ErrorOut}}
"""OpenAPI's description of a route that names a model."""


def openai_routes(service: AnswerService) -> APIRouter:
    """The routes."""
    router = APIRouter(route_class=OpenAIRoute)
    created = int(time.time())

    async def card(name: str) -> dict[str, Any]:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": OWNER,
            "max_model_len": await service.max_model_len(),
        }

    @router.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The two models; `max_model_len` is their context in tokens, null while that is not known."""
        names = (service.model, service.model + RAG)
        return {"object": "list", "data": [await card(name) for name in names]}

    @router.get("/v1/models/{name}", responses=UNKNOWN)
    async def model(name: str) -> dict[str, Any]:
        """One of the two."""
        is_plain_model(name)
        return await card(name)

    @router.post("/v1/chat/completions", responses=UNKNOWN | STREAM)
    async def chat(body: ChatBody) -> Response:
        """Chat with the plain model, or have the last message answered by the whole loop."""
        if (given := for_plain_model(body)) is not None:
            return await plain(service, "chat", given)
        return await chat_by_loop(service, body)

    @router.post("/v1/responses", responses=UNKNOWN | STREAM)
    async def responses(body: ResponsesBody) -> Response:
        """As chat completions, in the form of OpenAI's Responses API; nothing is stored."""
        if (given := for_plain_model(body)) is not None:
            return await plain(service, "responses", given)
        return await respond_by_loop(service, body)

    @router.post("/v1/completions", responses=UNKNOWN | STREAM)
    async def completions(body: CompletionBody) -> Response:
        """What the plain model writes after a text, without a chat template."""
        check_plain(is_plain_model, body.model, "completes no text")
        return await plain(service, "completions", body.given)

    @router.post("/tokenize", responses=UNKNOWN)
    async def tokenize(body: TokenizeBody) -> Response:
        """The plain model's tokens of a prompt, or of messages in its chat template."""
        check_plain(is_plain_model, body.model, "has no tokens of its own")
        if (body.prompt is None) == (body.messages is None):
            message = "prompt: give a prompt or messages"
            raise RefusedError(422, "invalid", message, param="prompt")
        return await plain(service, "tokenize", {"model": service.model, **body.given})

    def for_plain_model(body: ChatBody | ResponsesBody) -> dict[str, Any] | None:
        """What the plain model is given of a body; None for one that the loop answers."""
        if is_plain_model(body.model):
            return body.given
        return {**body.given, "model": service.model} if is_task_prompt(body.question) else None

    def is_plain_model(name: str) -> bool:
        """Whether a name is that of the plain model; raises RefusedError if it is that of neither."""
        if name not in (service.model, service.model + RAG):
            raise RefusedError(
                404, "model_not_found", f"model: none is called {name[:100]!r}; GET /v1/models"
            )
        return name == service.model

    return router
