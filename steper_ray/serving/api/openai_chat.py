"""The reasoning loop as a model of OpenAI's chat completions.

It answers the last user message by the whole loop. It has no memory: earlier messages are not read. Its
rationales are `reasoning_content`, as reasoning models' are, and every response has the steps with their
passages in the extension field `steper`, which also names ignored parts of the request.
"""

import time
import uuid
from collections.abc import AsyncGenerator
from typing import Any

from pydantic_core import to_json
from starlette.responses import Response

from steper_ray.serving.answering import AnswerService
from steper_ray.serving.api.events import KEEP_ALIVE, data_text, openai_failed, stream_events
from steper_ray.serving.api.openai_body import ChatBody, ignored_header, loop_ignores
from steper_ray.serving.api.schema import AnswerOut
from steper_ray.serving.happenings import AnswerReady, KeepAlive, ServiceEvent, StepReady, TextPiece


async def chat_by_loop(service: AnswerService, body: ChatBody) -> Response:
    """The loop's answer to the last user message, whole or as a stream."""
    ignored = loop_ignores(body, ("messages", *(("stream_options",) if body.stream else ())))
    ignored += ["earlier messages"] if len(body.messages) > 1 else []
    question = body.question
    service.check_question(question, "messages")
    settings, headers = service.reasoning.settings, ignored_header(ignored)
    if body.stream:
        happenings = service.stream(question, settings, body.sampling)
        return await _stream(happenings, body, ignored)
    answer = await service.answer(question, settings, body.sampling)
    text = to_json(completion(answer, body, ignored))
    return Response(text, media_type="application/json", headers=headers)


def completion(answer: AnswerOut, body: ChatBody, ignored: list[str]) -> dict[str, Any]:
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
        "steper": extension(answer, ignored),
    }


def usage(answer: AnswerOut) -> dict[str, Any]:
    """The tokens of all steps."""
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.generated_tokens,
        "total_tokens": answer.prompt_tokens + answer.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": answer.cached_tokens},
    }


def extension(answer: AnswerOut, ignored: list[str]) -> dict[str, Any]:
    """Extension field `steper`: what an OpenAI response has no field for."""
    return {**answer.model_dump(exclude={"answer", "finish_reason"}), "ignored": ignored}


async def _stream(
    happenings: AsyncGenerator[ServiceEvent, None], body: ChatBody, ignored: list[str]
) -> Response:
    """The loop as OpenAI's chunks: rationales as `reasoning_content`, then the answer and `steper`."""
    head = _head("chat.completion.chunk", body)

    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}
        return data_text({**head, "choices": [choice], **more})

    def chunks(happening: ServiceEvent) -> list[str]:
        match happening:
            case TextPiece(text=text):
                return [chunk({"reasoning_content": text})]
            case StepReady(last=False):
                return [chunk({"reasoning_content": "\n"})]
            case KeepAlive():
                return [KEEP_ALIVE]
            case AnswerReady(answer):
                said = [
                    chunk({"content": answer.answer}),
                    chunk({}, answer.finish_reason, steper=extension(answer, ignored)),
                ]
                if body.includes_usage:
                    said.append(data_text({**head, "choices": [], "usage": usage(answer)}))
                return [*said, "data: [DONE]\n\n"]
        return []

    role = chunk({"role": "assistant", "content": ""})
    headers = ignored_header(ignored)
    return await stream_events(happenings, chunks, openai_failed, opening=(role,), headers=headers)


def _head(kind: str, body: ChatBody) -> dict[str, Any]:
    """Common fields of every OpenAI response."""
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": body.model,
    }
