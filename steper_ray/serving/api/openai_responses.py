"""The reasoning loop as a model of OpenAI's Responses API: its rationales are an item of reasoning.

As in chat completions only the last user message is read, and the field `steper` has the steps. Nothing is
stored, so a conversation is sent whole each time.
"""

import itertools
import time
import uuid
from collections.abc import AsyncGenerator
from typing import Annotated, Any

from pydantic import Field
from pydantic_core import to_json
from starlette.responses import Response

from steper_ray.serving.answering import AnswerService
from steper_ray.serving.api.events import KEEP_ALIVE, event_text, openai_failed, stream_events
from steper_ray.serving.api.openai_body import (
    SampledBody,
    check_text_only,
    ignored_header,
    loop_ignores,
    question_in,
)
from steper_ray.serving.api.openai_chat import extension
from steper_ray.serving.api.schema import AnswerOut, AnyText
from steper_ray.serving.happenings import AnswerReady, KeepAlive, ServiceEvent, StepReady, TextPiece


class ResponsesBody(SampledBody):
    """Body of POST /v1/responses."""

    input: AnyText | Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]
    """A text, or the items of a conversation."""

    @property
    def question(self) -> str:
        """The last user message; raises RefusedError without one, and for one that is not only text."""
        if isinstance(self.input, str):
            return question_in([self.input], "input")
        asked = [item.get("content") for item in self.input if item.get("role") == "user"]
        if asked:
            check_text_only(asked[-1], "input")
        return question_in([_text(content) for content in asked], "input")


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


async def respond_by_loop(service: AnswerService, body: ResponsesBody) -> Response:
    """The loop's answer to the last user message, whole or as a stream."""
    ignored = loop_ignores(body, ("input",))
    if not isinstance(body.input, str) and len(body.input) > 1:
        ignored.append("earlier messages")
    question = body.question
    service.check_question(question, "input")
    settings, headers = service.reasoning.settings, ignored_header(ignored)
    reply = _Reply(body, ignored)
    if body.stream:
        happenings = service.stream(question, settings, body.sampling)
        return await _stream(happenings, reply, headers)
    answer = await service.answer(question, settings, body.sampling)
    return Response(to_json(reply.whole(answer)), media_type="application/json", headers=headers)


class _Reply:
    """A response and its items, whose ids stay the same over a stream."""

    def __init__(self, body: ResponsesBody, ignored: list[str]) -> None:
        self._body, self._ignored = body, ignored
        self._id, self._created = f"resp_{uuid.uuid4().hex}", int(time.time())
        self.reasoning_id, self.message_id = f"rs_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"

    def begun(self) -> dict[str, Any]:
        """The response before anything is written."""
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": body.model,
            "status": "in_progress",
            "output": [],
            "error": None,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "tools": [],
            "tool_choice": "none",
            "parallel_tool_calls": False,
            "temperature": body.sampling.temperature,
            "top_p": body.sampling.top_p,
            "background": False,
            "truncation": "disabled",
            "usage": None,
            "text": {"format": {"type": "text"}},
        }

    def reasoning(self, rationales: str | None = None) -> dict[str, Any]:
        """The item of reasoning; None: it begins."""
        return {
            "id": self.reasoning_id,
            "type": "reasoning",
            "summary": [],
            "content": [reasoning_text(rationales)] if rationales is not None else [],
            "status": "in_progress" if rationales is None else "completed",
        }

    def message(self, answer: str | None = None) -> dict[str, Any]:
        """The item with the answer; None: it begins."""
        done = answer is not None
        return {
            "id": self.message_id,
            "type": "message",
            "role": "assistant",
            "content": [output_text(answer)] if answer is not None else [],
            "status": "completed" if done else "in_progress",
        }

    def whole(self, answer: AnswerOut) -> dict[str, Any]:
        """The finished response."""
        cut = answer.finish_reason == "length"
        return {
            **self.begun(),
            "status": "incomplete" if cut else "completed",
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "output": [self.reasoning(rationales(answer)), self.message(answer.answer)],
            "usage": {
                "input_tokens": answer.prompt_tokens,
                "input_tokens_details": {"cached_tokens": answer.cached_tokens},
                "output_tokens": answer.generated_tokens,
                "output_tokens_details": {"reasoning_tokens": 0},
                "total_tokens": answer.prompt_tokens + answer.generated_tokens,
            },
            "steper": extension(answer, self._ignored),
        }


def rationales(answer: AnswerOut) -> str:
    """What the steps say, a line each."""
    return "\n".join(step.rationale for step in answer.steps)


def reasoning_text(text: str) -> dict[str, Any]:
    """The part of an item of reasoning."""
    return {"type": "reasoning_text", "text": text}


def output_text(text: str) -> dict[str, Any]:
    """A part of a message."""
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


async def _stream(
    happenings: AsyncGenerator[ServiceEvent, None], reply: _Reply, headers: dict[str, str]
) -> Response:
    numbers = itertools.count()

    def event(kind: str, **fields: Any) -> str:
        name = f"response.{kind}"
        numbered = {"type": name, "sequence_number": next(numbers), **fields}
        return event_text(name, to_json(numbered).decode())

    thinks: dict[str, Any] = {"item_id": reply.reasoning_id, "output_index": 0, "content_index": 0}
    says: dict[str, Any] = {"item_id": reply.message_id, "output_index": 1, "content_index": 0}

    def ending(answer: AnswerOut) -> list[str]:
        """The events behind the last rationale."""
        thought, said = rationales(answer), answer.answer
        reasoned, message, whole = (
            reply.reasoning(thought),
            reply.message(said),
            reply.whole(answer),
        )
        return [
            event("reasoning_text.done", **thinks, text=thought),
            event("content_part.done", **thinks, part=reasoning_text(thought)),
            event("output_item.done", output_index=0, item=reasoned),
            event("output_item.added", output_index=1, item=reply.message()),
            event("content_part.added", **says, part=output_text("")),
            event("output_text.delta", **says, delta=said, logprobs=[]),
            event("output_text.done", **says, text=said, logprobs=[]),
            event("content_part.done", **says, part=output_text(said)),
            event("output_item.done", output_index=1, item=message),
            event(whole["status"], response=whole),
        ]

    def events(happening: ServiceEvent) -> list[str]:
        match happening:
            case TextPiece(text=text):
                return [event("reasoning_text.delta", **thinks, delta=text)]
            case StepReady(last=False):
                return [event("reasoning_text.delta", **thinks, delta="\n")]
            case KeepAlive():
                return [KEEP_ALIVE]
            case AnswerReady(answer):
                return ending(answer)
        return []

    opening = (
        event("created", response=reply.begun()),
        event("in_progress", response=reply.begun()),
        event("output_item.added", output_index=0, item=reply.reasoning()),
        event("content_part.added", **thinks, part=reasoning_text("")),
    )
    return await stream_events(happenings, events, openai_failed, opening=opening, headers=headers)
